"""Steps about traffic: allowed, denied with the rule that denied, counted."""

import httpx

from app.demo.documents import POLICIES, QUOTA, QUOTA_DOMAIN, REQUESTS_PER_MINUTE
from app.demo.mesh import CONTROL_PLANE, Mesh, sidecar
from app.demo.steps import UnexpectedError

LOGS = (CONTROL_PLANE, sidecar("api"))
# Two windows' worth and one: a window may end in between, but not twice.
LIMIT_TRIES = 2 * REQUESTS_PER_MINUTE + 1


async def documents_applied(mesh: Mesh) -> str:
    """See the admin API take the demo's policies and limits."""
    await mesh.admin.apply_policies(POLICIES)
    await mesh.admin.put_quota(QUOTA_DOMAIN, QUOTA)
    return "2 AuthorizationPolicies, 1 rate limit"


async def allowed(mesh: Mesh) -> str:
    """See what the policy allows reach the workload."""
    answer = await ask(mesh, "/hello")
    if answer.status_code != httpx.codes.OK or answer.json()["workload"] != "api":
        raise UnexpectedError("200 from api", told(answer), *LOGS)
    return "GET /hello → 200"


async def denied(mesh: Mesh) -> str:
    """See what a rule denies answered with 403 and the rule that denied."""
    answer = await ask(mesh, "/admin")
    _check_denied(answer, "no-admin")
    return f"GET /admin → 403 by {answer.headers['x-meshward-decision']}"


async def denied_over_http(mesh: Mesh) -> str:
    """See a sidecar that asks over HTTP instead of gRPC get the same answers."""
    good = await ask(mesh, "/hello", listener="web_outbound_http_check")
    if good.status_code != httpx.codes.OK:
        raise UnexpectedError("200 from api", told(good), *LOGS)
    _check_denied(await ask(mesh, "/admin", listener="web_outbound_http_check"), "no-admin")
    return "/hello → 200, /admin → 403"


async def limited(mesh: Mesh) -> str:
    """See requests above the limit answered with 429 and headers that say when to come back."""
    for sent in range(LIMIT_TRIES):
        answer = await ask(mesh, "/limited")
        if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            headers = {key: value for key, value in answer.headers.items() if "ratelimit-" in key}
            if not headers or sent < REQUESTS_PER_MINUTE:
                raise UnexpectedError(f"{REQUESTS_PER_MINUTE} times 200, then 429 with headers", told(answer), *LOGS)
            reset = headers.get("x-ratelimit-reset", "?")
            return f"GET /limited → 429 after {sent}, x-ratelimit-reset: {reset}"
        if answer.status_code != httpx.codes.OK:
            break
    raise UnexpectedError(f"{REQUESTS_PER_MINUTE} times 200, then 429", told(answer), *LOGS)


async def ask(mesh: Mesh, path: str, *, listener: str = "web_outbound") -> httpx.Response:
    """Return api's answer to a GET of `path`, asked as web does: through its sidecar's `listener`."""
    return await mesh.client.get(mesh.plan.addresses[listener].url + path)


def told(answer: httpx.Response) -> str:
    """Return what an answer said, for people."""
    return f"{answer.status_code} {answer.text.strip()[:300]}".strip()


def _check_denied(answer: httpx.Response, policy: str) -> None:
    decision = answer.headers.get("x-meshward-decision", "")
    if answer.status_code != httpx.codes.FORBIDDEN or policy not in decision:
        raise UnexpectedError(f"403 by {policy}", f"{told(answer)} (x-meshward-decision: {decision!r})", *LOGS)
