"""The one page: everything is in it, so nothing else is ever asked for."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources

from rotor_actors.dashboard.asgi import Response


def page() -> Response:
    """The page, with a policy that lets run what is in it and nothing else."""
    text = (resources.files("rotor_actors.dashboard") / "static" / "index.html").read_text("utf-8")
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hashes(text, 'script')}",
            f"style-src {_hashes(text, 'style')}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
    return Response(text.encode(), "text/html; charset=utf-8", headers={"content-security-policy": policy})


def _hashes(text: str, tag: str) -> str:
    bodies = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", text, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'" for body in bodies)
