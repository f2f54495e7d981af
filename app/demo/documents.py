"""The documents that the demo applies: policies and limits."""

POLICIES = """\
# As Istio's users write it: only what a rule allows reaches api.
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: api-readers
  namespace: demo
spec:
  selector:
    matchLabels:
      app: api
  action: ALLOW
  rules:
    - from:
        - source:
            principals: ["cluster.local/ns/demo/sa/web"]
      to:
        - operation:
            methods: ["GET"]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: no-admin
  namespace: demo
spec:
  selector:
    matchLabels:
      app: api
  action: DENY
  rules:
    - to:
        - operation:
            paths: ["/admin", "/admin/*"]
"""

CLOSE_NEWS = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: close-news
  namespace: demo
spec:
  action: DENY
  rules:
    - to:
        - operation:
            paths: ["/news"]
"""

QUOTA_DOMAIN = "demo"
REQUESTS_PER_MINUTE = 5
QUOTA = f"""\
# What envoyproxy/ratelimit's users write. The principal is the verified peer, not a header that it wrote.
domain: {QUOTA_DOMAIN}
descriptors:
  - key: principal
    value: spiffe://cluster.local/ns/demo/sa/web
    descriptors:
      - key: path
        value: /limited
        rate_limit:
          unit: minute
          requests_per_unit: {REQUESTS_PER_MINUTE}
"""
