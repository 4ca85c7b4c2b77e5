"""Build hook: compiles the engine's hot path with mypyc if there is a C compiler.

Without one, the same modules run as plain Python: slower, with the same results to the last bit. The
extension modules are written beside their sources (git ignores them) and into the wheel.
`agent/_compiled.json` holds the hashes of the sources, so that the tests notice a stale module.
TAPEWIRE_PURE=1 builds without compiling.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODULES = (
    "agent/core/decimals.py",
    "agent/core/instruments.py",
    "agent/core/fill_models.py",
    "agent/core/bar_block.py",
    "agent/core/block_runner.py",
    "agent/core/engine.py",
    "agent/core/orders.py",
    "agent/core/protection.py",
    "agent/core/exchange.py",
    "agent/core/margin.py",
    "agent/core/paper.py",
    "agent/core/venue.py",
    "agent/core/sleeve_venue.py",
    "agent/core/features.py",
    "agent/data/merge.py",
    "agent/core/market.py",
    "agent/core/fusion_inputs.py",
    "agent/core/portfolio.py",
    "agent/core/risk.py",
    "agent/core/signals.py",
    "agent/core/sizing.py",
    "agent/core/target_orders.py",
    "agent/core/votes.py",
    "agent/core/lockstep.py",
    "agent/core/lockstep_variant.py",
    "agent/core/rolling_mean.py",
)
MANIFEST = "agent/_compiled.json"
_MYPY = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent", "--python-version=3.11"]
# No fused multiply-add: results must be those of the interpreter, bit for bit, on every processor
_CFLAGS = ["-O3", "-ffp-contract=off", "-fvisibility=hidden", "-fno-semantic-interposition"]


class CompileHook(BuildHookInterface):  # type: ignore[misc]
    """Compiles, or says why not, and goes on."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        editable = version == "editable"
        out = root if editable else root / "build" / "compiled"
        if os.environ.get("TAPEWIRE_PURE"):
            clean(out)
            return
        try:
            built = up_to_date(root, out)  # pip asks twice
            if not built:
                clean(out)
                built = compile_modules(root, out)
        except (Exception, SystemExit) as error:  # noqa: BLE001 a compiler may raise anything
            self.app.display_warning(
                f"tapewire: the hot path stays interpreted, since it could not be compiled: {error}"
            )
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        if not editable:
            build_data["force_include"] |= {str(out / file): file for file in built}


def clean(out: Path) -> None:
    """Remove what an earlier build left."""
    for stale in [*out.glob("agent/**/*.so"), *out.glob("*__mypyc*.so"), out / MANIFEST]:
        stale.unlink(missing_ok=True)


def up_to_date(root: Path, out: Path) -> list[str]:
    """The files of an earlier build in `out`, if it was made from just these sources for this interpreter."""
    try:
        manifest = json.loads((out / MANIFEST).read_text())
    except (OSError, ValueError):
        return []
    same = manifest.get("sources") == digests(root) and manifest.get("suffix") == sysconfig.get_config_var(
        "EXT_SUFFIX"
    )
    files = [*manifest.get("files", []), MANIFEST]
    return files if same and all((out / file).is_file() for file in files) else []


def digests(root: Path) -> dict[str, str]:
    """SHA-256 of each compiled module and of this file."""
    return {
        name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in (*MODULES, "hatch_build.py")
    }


def compile_modules(root: Path, out: Path) -> list[str]:
    """Compile `MODULES` of `root` into `out`; return the paths, relative to `out`, with the manifest's."""
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    here, argv = Path.cwd(), sys.argv
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(root)
        sys.argv = argv[:1]
        try:
            extensions = mypycify(
                [*_MYPY, *MODULES], opt_level="2", group_name="tapewire", target_dir=scratch
            )
            for extension in extensions:
                extension.extra_compile_args += _CFLAGS
            command = build_ext(Distribution({"name": "tapewire", "ext_modules": extensions}))
            command.build_lib, command.build_temp = f"{scratch}/lib", f"{scratch}/temp"
            command.ensure_finalized()
            command.run()
            built = [str(Path(path).relative_to(command.build_lib)) for path in command.get_outputs()]
            for path in built:
                (out / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(Path(command.build_lib) / path, out / path)
        finally:
            os.chdir(here)
            sys.argv = argv
    manifest = {"suffix": sysconfig.get_config_var("EXT_SUFFIX"), "sources": digests(root), "files": built}
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return [*built, MANIFEST]
