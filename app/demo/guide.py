"""What the demo prints when it stays up: where everything is, and what to try."""

from app.demo.documents import REQUESTS_PER_MINUTE
from app.demo.plan import API, WEB, Plan


def guide(plan: Plan) -> str:
    """Return the text for `plan`: addresses, identities and commands for a second terminal."""
    at = plan.addresses
    quiet = r"curl -s -o /dev/null -w '%{http_code}\n'"
    admin = f'curl -H "authorization: Bearer $(cat {plan.admin_token})"'
    several = f"for i in $(seq {REQUESTS_PER_MINUTE + 1}); do {quiet} {at['web'].url}/limited; done"
    yaml = "-H 'content-type: application/yaml'"
    return f"""
The mesh is up. curl → web → web's Envoy ═ mTLS ═ api's Envoy → api

  web   {at["web"].url}    {WEB}
        Envoy {at["web_outbound"]}, its admin port {at["web_envoy"].url}
  api   {at["api"].url}    {API}
        Envoy {at["api_inbound"]} (mTLS only), its admin port {at["api_envoy"].url}
  control plane   mesh TLS {at["mesh_tls"]}, plaintext {at["mesh_plaintext"]}, admin {at["admin"].url}
  files           {plan.directory}

Try, in another terminal:

  allowed: web may GET
    curl -i {at["web"].url}/hello
  denied, with the policy and the rule in x-meshward-decision
    curl -i {at["web"].url}/admin
    curl -i -X POST {at["web"].url}/hello
  rate limited: {REQUESTS_PER_MINUTE} a minute for this identity
    {several}
  no certificate, no entry
    curl -i {at["api_inbound"].url}/hello
  change a policy: /news is closed with the next request, and open again
    {admin} {yaml} --data-binary @{plan.close_news_file} {at["admin"].url}/v1/policies
    curl -i {at["web"].url}/news
    {admin} -X DELETE {at["admin"].url}/v1/policies/demo/close-news
  who is in the mesh, and what Envoy holds
    {admin} {at["admin"].url}/v1/svids
    curl {at["api_envoy"].url}/certs
  metrics
    curl {at["admin"].url}/metrics

Ctrl-C stops it and removes everything.
"""
