"""What the demo prints when it stays up: addresses, and commands to try."""

from app.demo.documents import REQUESTS_PER_MINUTE
from app.demo.plan import API, WEB, Plan


def curl_configuration(admin_token: str) -> str:
    """Return a configuration for `curl -K` with the admin token and the content type of YAML."""
    return f'header = "authorization: Bearer {admin_token}"\nheader = "content-type: application/yaml"\n'


def guide(plan: Plan) -> str:
    """Return the text for `plan`: addresses, identities and commands for a second terminal."""
    at = plan.addresses
    web, admin = at["web"].url, at["admin"].url
    as_admin = f"curl -K {plan.curl_file}"
    several = (
        f"for i in $(seq {REQUESTS_PER_MINUTE + 1}); do curl -s -o /dev/null -w '%{{http_code}} ' {web}/limited; done"
    )
    return f"""
The mesh is up.   curl → web → web's Envoy ═ mTLS ═ api's Envoy → api

  web             {web}   {WEB}
                  its Envoy: {at["web_outbound"]}, admin port {at["web_envoy"].url}
  api             {at["api"].url}   {API}
                  its Envoy: {at["api_inbound"]} (mTLS), admin port {at["api_envoy"].url}
  control plane   {admin} (admin), {at["mesh_tls"]} (mesh, TLS), {at["mesh_plaintext"]} (mesh, plaintext)
  files           {plan.directory}

Try, in another terminal:

  allowed: web may GET
    curl -i {web}/hello
  denied, with the policy in x-meshward-decision
    curl -i {web}/admin
    curl -i -X POST {web}/hello
  limited: {REQUESTS_PER_MINUTE} a minute for this identity
    {several}
  refused: no certificate
    curl -i {at["api_inbound"].url}/hello
  a change of policy: /news is closed for the next request, and open again after the DELETE
    {as_admin} --data-binary @{plan.close_news_file} {admin}/v1/policies
    curl -i {web}/news
    {as_admin} -X DELETE {admin}/v1/policies/demo/close-news
  issued certificates, and those that Envoy has
    {as_admin} {admin}/v1/svids
    curl {at["api_envoy"].url}/certs
  what was counted
    curl {admin}/metrics

Ctrl-C stops it and removes everything.
"""
