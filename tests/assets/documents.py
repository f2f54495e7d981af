"""Documents that tests put into a control plane."""

DENY_NEWS = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-news, namespace: shop}
spec:
  action: DENY
  rules: [{to: [{operation: {paths: ["/news"]}}]}]
"""

ONE_A_DAY = """
domain: shop
descriptors:
  - key: key
    rate_limit: {unit: year, requests_per_unit: 1}
"""
