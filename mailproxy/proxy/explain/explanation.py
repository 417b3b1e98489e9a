"""The answer to a question: each step in a sentence, and what it comes to."""

from __future__ import annotations

from attrs import define, field

from mailproxy.log.end_reasons import EndReason


@define
class Explanation:
    """What a client would get.

    Attributes:
        frontend: The name of the frontend.
        bind: The name of the bind.
        route: The index of the route; None for the frontend's backend.
        certificate: The file of the certificate, None if TLS does not end here.
        backend: The name of the backend, None if the session gets none.
        server: The name of the server. None if the session gets none, or one of several.
        candidates: The servers of which the session gets one.
        end: Why the session would be refused, None if it is not.
        steps: A sentence for each step.
    """

    frontend: str
    bind: str
    route: int | None = None
    certificate: str | None = None
    backend: str | None = None
    server: str | None = None
    candidates: tuple[str, ...] = ()
    end: EndReason | None = None
    steps: list[str] = field(factory=list)

    def add_step(self, sentence: str) -> None:
        """Add a step."""
        self.steps.append(sentence)

    def refuse(self, end: EndReason, detail: str) -> None:
        """Add the step that ends the session."""
        self.end = end
        self.add_step(f"The session ends: {detail}. The log has the end reason {end.name}.")

    def to_json(self) -> dict[str, object]:
        """Return it as JSON can have it."""
        return {
            "frontend": self.frontend,
            "bind": self.bind,
            "route": self.route,
            "certificate": self.certificate,
            "backend": self.backend,
            "server": self.server,
            "candidates": list(self.candidates),
            "end": self.end.name if self.end is not None else None,
            "steps": self.steps,
        }

    def to_text(self) -> str:
        """Return the steps, numbered, and the result below, each on a line."""
        steps = [f"{number}. {step}" for number, step in enumerate(self.steps, 1)]
        return "".join(f"{line}\n" for line in (*steps, f"=> {self._result()}"))

    def _result(self) -> str:
        entry = f"{self.frontend} {self.bind}"
        if self.backend is None:
            return f"{entry}: {self.end.name if self.end is not None else 'no session'}"
        if self.server is None and self.candidates:
            return f"{entry} -> {self.backend}/ one of {', '.join(self.candidates)}"
        if self.server is None:
            return f"{entry} -> {self.backend}: {self.end.name if self.end is not None else 'waits in the queue'}"
        return f"{entry} -> {self.backend}/{self.server}"
