"""The running agent as its services, the dashboard and the service manager see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from agent.config import Config
from agent.core.events import News
from agent.live.interfaces.observer import Observer
from agent.live.interfaces.producer import Producer
from agent.live.interfaces.status import Status
from agent.store.runs import Run
from agent.system.latency_histogram import LatencyHistogram
from agent.system.listening_sockets import Listener


class HeadlineScorer(Producer, Protocol):
    """A producer of sentiment for the headlines that it is offered."""

    def offer(self, news: News) -> None:
        """Take a headline to score; never blocks."""
        ...


class LocalModel(HeadlineScorer, Protocol):
    """The agent's own sentiment model."""

    @property
    def fingerprint(self) -> str:
        """Identifies the model that scores now; empty before one is loaded."""
        ...

    @property
    def names(self) -> str:
        """Hash of the names by which the model finds assets; empty if it doesn't read single assets."""
        ...


class RunningAgent(Protocol):
    """The agent, before and while it runs. Methods that need it running raise UsageError before `started`."""

    config: Config
    listeners: list[Listener]  # servers whose connections the status counts
    login_link: Callable[[], str] | None  # makes a link to the page that the agent serves, if it serves one

    @property
    def started(self) -> bool:
        """True once the run is open and commands are accepted."""
        ...

    @property
    def run_id(self) -> str:
        """Id of the run that is recorded."""
        ...

    @property
    def stuck_for(self) -> float:
        """Seconds that the oldest queued event has waited; 0 while the store can't be written."""
        ...

    @property
    def latencies(self) -> Mapping[str, LatencyHistogram]:
        """Time from arrival in the queue to handled and recorded, by kind of event."""
        ...

    @property
    def spans(self) -> Mapping[str, LatencyHistogram]:
        """Durations of the stages in `agent.live.interfaces.status`: headline to sentiment and so on."""
        ...

    def status(self) -> Status:
        """Take a snapshot of the agent's state."""
        ...

    async def command(self, action: str, args: dict[str, str] | None = None, by: str = "") -> dict[str, Any]:
        """Journal and handle a command; return its result. Raises UsageError for an unknown command."""
        ...

    def observe(self, observer: Observer) -> None:
        """Add an observer of this life of the agent. Call before it runs."""
        ...

    def observe_run(self, make: Callable[[Run], Observer]) -> None:
        """Add an observer that also receives the past of a resumed run; `make` is called with the run."""
        ...


class Services(NamedTuple):
    """What is attached to an agent: observers, companion producers, and a scorer in place of the local
    model.
    """

    observers: tuple[Observer, ...] = ()
    companions: tuple[Producer, ...] = ()
    scorer: HeadlineScorer | None = None
