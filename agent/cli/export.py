"""`tapewire export`: from a trained adapter to the folder that the daemon loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.console import err, out, print_json


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("export")(export)


def export(
    adapter: Annotated[Path, typer.Argument(help="Folder written by `tapewire train sentiment`.")],
    output: Annotated[Path, typer.Argument(help="Folder to write: model.onnx, tokenizer.json, card.json.")],
    base: Annotated[
        str | None, typer.Option(help="Base model, where it is not found under the name in the card.")
    ] = None,
    quantise: Annotated[
        bool, typer.Option(help="int8 weights and activations, for the CPU; off for a GPU.")
    ] = True,
    reference: Annotated[
        Path | None, typer.Option(help="Texts, one a line, to compare the export with torch on.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an earlier export.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Merge an adapter, write it as ONNX, quantise it, and measure how far it then is from what was trained."""
    from models.sentiment.train.onnx_export import export_model, reference_texts

    with err.status("exporting"):
        texts = reference_texts(reference)
        card = export_model(adapter, output, base=base, quantise=quantise, reference=texts, overwrite=force)
    size = (output / "model.onnx").stat().st_size
    found = {"folder": str(output), "bytes": size, "fingerprint": card.fingerprint, **card.notes}
    if json:
        print_json(found)
        return
    out.print(f"{output}: {size / 1e6:.1f} MB, fingerprint {card.fingerprint[:12]}", markup=False)
    for name, value in card.notes.items():
        if name.startswith("export_"):
            out.print(f"  {name.removeprefix('export_').replace('_', ' ')}: {value}", markup=False)
