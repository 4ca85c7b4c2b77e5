"""Check of a sentiment model: it opens and scores a headline; a language model's server knows the model."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import aiohttp
import msgspec

from agent.config import Config
from agent.core.errors import ModelError
from agent.data.sentiment import provenance_of
from agent.data.text import one_line
from agent.live.interfaces.producer import shown
from agent.system.http_timeouts import NO_TOTAL
from agent.system.untrusted import JSON_DECODE_ERRORS

_HEADLINE: Final = "Regulator approves the first fund that holds bitcoin"
_MOST_BYTES: Final = 1 << 20
_MOST_LISTED: Final = 5
_LONGEST_ID: Final = 60  # characters


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


async def check_model(config: Config, path: str) -> str:
    """Open the model that `path` names and score a headline with it.

    Raises as `open_scorer`, and ModelError with what to do if a language model gives no answer.
    """
    from models.sentiment.open_scorer import open_scorer
    from models.sentiment.scorer_facts import close_scorer, language_models

    scorer = await asyncio.to_thread(open_scorer, path, config)
    try:
        servers = list(language_models(scorer))
        listed = {id(one): await _list_models(config, one.spec) for one in servers}
        began = time.perf_counter()
        (score,) = await asyncio.to_thread(scorer.score, [_HEADLINE])
        took = (time.perf_counter() - began) * 1000
        facts = [_facts(one, listed[id(one)], provenance_of(score)) for one in servers]
    finally:
        close_scorer(scorer)
    found = f"{path} ({scorer.fingerprint[:12]}) scores a headline in {took:.1f} ms: "
    found += "it abstains" if score.abstained else f"bullish {score.bullish:.2f}"
    return "; ".join([found, *facts])


def _facts(scorer: Any, listed: tuple[str, ...] | None, provenance: Any) -> str:
    """Describe a language model that answered. Raises ModelError if it didn't."""
    health, spec = scorer.health, scorer.spec
    missing = listed is not None and spec.model not in listed
    if not health.answered:
        why = health.last_error or (provenance.fallback if provenance else "") or "no answer"
        if missing:
            names = ", ".join(one_line(name, _LONGEST_ID) for name in (listed or ())[:_MOST_LISTED])
            raise ModelError(
                f"{spec.url} has no model {spec.model}, but {names or 'none'}: {why}",
                hint=f"load it there (Ollama: ollama pull {spec.model}), or name another after # in the path",
            )
        raise ModelError(
            f"{spec.model} at {spec.url} gives no answer: {why}",
            hint='see llm.request_timeout and llm.budget; a model that thinks first needs method = "json"',
        )
    how = "by log-probabilities"
    if health.method == "json":
        how = f"by {scorer.config.samples} answers in JSON"
        how += f" ({health.note})" if health.note else ""
    cutoff = scorer.knowledge_cutoff
    known = f"knowledge cutoff {cutoff}" if cutoff else "knowledge cutoff unknown: llm.cutoffs states it"
    calibrated = "calibrated" if scorer.calibration else "not calibrated: tapewire calibrate"
    unlisted = ", not in the server's list of models" if missing else ""
    return f"{spec.model} answers {how}{unlisted}, {known}, {calibrated}"


async def _list_models(config: Config, spec: Any) -> tuple[str, ...] | None:
    """Return the ids of the server's models, None if it doesn't list them.

    Raises ModelError if the server can't be reached or refuses the key.
    """
    from models.sentiment.llm.llm_spec import check_allowed, read_key

    key = read_key(spec, config.llm)
    check_allowed(spec, config.llm.allow_hosts, key)
    headers = {"Authorization": f"Bearer {key.reveal()}"} if key is not None else {}
    try:
        async with (
            asyncio.timeout(config.llm.request_timeout / 1000),
            aiohttp.ClientSession(timeout=NO_TOTAL, trust_env=False) as session,
            session.get(f"{spec.url}/models", headers=headers, allow_redirects=False) as response,
        ):
            status, body = response.status, await response.content.read(_MOST_BYTES)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        start = "start the server (Ollama: ollama serve), or correct the URL" if spec.local else "see the URL"
        raise ModelError(f"{spec.url} can't be reached: {shown(error)}", hint=start) from None
    if status in (401, 403):
        raise ModelError(f"{spec.url} refuses the key (HTTP {status})", hint="see llm.key_file")
    try:
        return tuple(model.id for model in msgspec.json.decode(body, type=_Models).data)
    except JSON_DECODE_ERRORS:
        return None
