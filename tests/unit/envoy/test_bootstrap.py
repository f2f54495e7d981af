import json

import pytest

from app.core.net import Address, UnixSocket
from app.envoy.bootstrap import bootstrap, bootstrap_json
from app.envoy.sidecar import ControlPlane, Inbound, Outbound, Protocol, Sidecar
from app.spiffe.id import SpiffeId

WEB = SpiffeId.parse("spiffe://example.org/ns/shop/sa/web")
API = SpiffeId.parse("spiffe://example.org/ns/shop/sa/api")


def at(port):
    return Address("127.0.0.1", port)


def sidecar(**changes):
    values = {
        "spiffe_id": API,
        "sds_socket": "/run/agent.sock",
        "control_plane": ControlPlane(at(15012), "meshward.example.org"),
        "inbound": (Inbound("inbound", at(15006), at(8080)),),
        "outbound": (Outbound("outbound", at(15001), at(15006), API, connection_seconds=2.5),),
        "quota_domain": "shop",
        "labels": {"app": "api"},
    }
    return Sidecar(**{**values, **changes})


def listener(document, name):
    (found,) = [each for each in document["static_resources"]["listeners"] if each["name"] == name]
    return found


def cluster(document, name):
    (found,) = [each for each in document["static_resources"]["clusters"] if each["name"] == name]
    return found


def manager(document, name):
    return listener(document, name)["filter_chains"][0]["filters"][0]["typed_config"]


def filters(document, name):
    return {each["name"]: each["typed_config"] for each in manager(document, name)["http_filters"]}


def tls(socket):
    return socket["typed_config"]["common_tls_context"]


def test_an_inbound_listener_requires_a_certificate_of_the_trust_domain():
    (chain,) = listener(bootstrap(sidecar()), "inbound")["filter_chains"]
    assert chain["transport_socket"]["typed_config"]["require_client_certificate"] is True
    validation = tls(chain["transport_socket"])["combined_validation_context"]
    # The slash matters: example.org must not admit example.org.attacker.net.
    assert validation["default_validation_context"]["match_typed_subject_alt_names"] == [
        {"san_type": "URI", "matcher": {"prefix": "spiffe://example.org/"}}
    ]
    assert validation["validation_context_sds_secret_config"]["name"] == "ROOTCA"


def test_every_certificate_comes_over_sds_and_none_is_in_the_document():
    text = bootstrap_json(sidecar())
    assert "inline" not in text
    assert "filename" not in text
    sds = cluster(json.loads(text), "sds")["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert sds["address"] == {"pipe": {"path": "/run/agent.sock"}}


def test_a_peer_must_have_the_spiffe_id_that_is_called():
    peer = cluster(bootstrap(sidecar()), "outbound-peer")
    validation = tls(peer["transport_socket"])["combined_validation_context"]["default_validation_context"]
    assert validation["match_typed_subject_alt_names"] == [{"san_type": "URI", "matcher": {"exact": str(API)}}]


def test_the_control_plane_must_prove_its_spiffe_id_and_not_a_name_alone():
    server = cluster(bootstrap(sidecar()), "meshward")
    validation = tls(server["transport_socket"])["combined_validation_context"]["default_validation_context"]
    assert validation["match_typed_subject_alt_names"] == [
        {"san_type": "URI", "matcher": {"exact": "spiffe://example.org/meshward/server"}}
    ]
    assert server["transport_socket"]["typed_config"]["sni"] == "meshward.example.org"


def test_inbound_requests_are_authorized_before_they_are_counted_and_counted_before_they_are_routed():
    assert list(filters(bootstrap(sidecar()), "inbound")) == [
        "envoy.filters.http.ext_authz",
        "envoy.filters.http.ratelimit",
        "envoy.filters.http.router",
    ]


def test_authorization_fails_closed():
    for protocol in Protocol:
        document = bootstrap(sidecar(inbound=(Inbound("inbound", at(15006), at(8080), protocol),)))
        assert filters(document, "inbound")["envoy.filters.http.ext_authz"]["failure_mode_allow"] is False


def test_each_try_of_a_call_may_take_as_long_as_the_whole_call():
    def patience(service, timed):
        return service["retry_policy"]["retry_back_off"]["max_interval"], timed["timeout"]

    for protocol in Protocol:
        found = filters(bootstrap(sidecar(inbound=(Inbound("inbound", at(15006), at(8080), protocol),))), "inbound")
        check, limit = found["envoy.filters.http.ext_authz"], found["envoy.filters.http.ratelimit"]
        service = check.get("grpc_service") or check["http_service"]
        for longest_try, whole in (
            patience(service, service.get("server_uri", service)),
            patience(limit["rate_limit_service"]["grpc_service"], limit),
        ):
            assert longest_try == whole


def test_a_grpc_check_has_raw_headers_the_certificate_of_the_peer_and_the_labels_of_the_workload():
    document = bootstrap(sidecar())
    check = filters(document, "inbound")["envoy.filters.http.ext_authz"]
    assert check["encode_raw_headers"] is True
    assert check["include_peer_certificate"] is True
    assert document["node"]["metadata"][check["bootstrap_metadata_labels_key"]] == {"app": "api"}


def test_an_http_check_goes_to_the_mesh_port_under_its_prefix_with_the_verified_peer():
    document = bootstrap(sidecar(inbound=(Inbound("inbound", at(15006), at(8080), Protocol.HTTP),)))
    check = filters(document, "inbound")["envoy.filters.http.ext_authz"]
    assert check["encode_raw_headers"] is True
    assert check["http_service"]["path_prefix"] == "/ext_authz"
    assert check["http_service"]["server_uri"]["cluster"] == "meshward"
    assert manager(document, "inbound")["forward_client_cert_details"] == "SANITIZE_SET"
    assert manager(document, "inbound")["use_remote_address"] is True


def test_an_http_check_has_every_header_of_the_client_but_those_that_it_declares_to_withhold_or_sets_itself():
    document = bootstrap(sidecar(inbound=(Inbound("inbound", at(15006), at(8080), Protocol.HTTP),)))
    check = filters(document, "inbound")["envoy.filters.http.ext_authz"]
    added = check["http_service"]["authorization_request"]["headers_to_add"]
    (declared,) = [each["value"] for each in added if each["key"] == "x-meshward-forwarded-headers"]
    withheld = check["disallowed_headers"]["patterns"]
    assert check["allowed_headers"]["patterns"] == [{"safe_regex": {"regex": ".*"}}]
    assert {"prefix": "x-meshward-"} in withheld
    # The service itself knows those with the two prefixes as the check's own, and has this one in another header.
    assert {"exact": "content-type"} in withheld
    exact = [f"!{each['exact']}" for each in withheld if each.get("exact", "content-type") != "content-type"]
    assert declared == ", ".join(["*", *exact])


def test_an_http_check_has_the_content_type_that_an_earlier_filter_kept():
    document = bootstrap(sidecar(inbound=(Inbound("inbound", at(15006), at(8080), Protocol.HTTP),)))
    found = filters(document, "inbound")
    assert list(found)[:2] == ["envoy.filters.http.set_filter_state", "envoy.filters.http.ext_authz"]
    (kept,) = found["envoy.filters.http.set_filter_state"]["on_request_headers"]
    assert kept["format_string"]["text_format_source"]["inline_string"] == "%REQ(content-type)%"
    added = found["envoy.filters.http.ext_authz"]["http_service"]["authorization_request"]["headers_to_add"]
    value = f"%FILTER_STATE({kept['object_key']}:PLAIN)%"
    assert {"key": "x-meshward-content-type", "value": value} in added


def test_an_http_check_has_the_labels_of_the_workload_and_the_addresses_of_the_connection():
    def headers_of(labels):
        inbound = (Inbound("inbound", at(15006), at(8080), Protocol.HTTP),)
        check = filters(bootstrap(sidecar(inbound=inbound, labels=labels)), "inbound")["envoy.filters.http.ext_authz"]
        added = check["http_service"]["authorization_request"]["headers_to_add"]
        return {header["key"]: header["value"] for header in added}

    assert headers_of({"app": "api", "version": "v1"})["x-meshward-labels"] == "app=api,version=v1"
    assert headers_of({})["x-meshward-source-ip"] == "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"
    assert "x-meshward-labels" not in headers_of({})


def test_limits_count_by_the_verified_peer_and_the_path_without_its_query():
    route = manager(bootstrap(sidecar()), "inbound")["route_config"]["virtual_hosts"][0]["routes"][-1]["route"]
    ((principal, path),) = [limit["actions"] for limit in route["rate_limits"]]
    assert principal["extension"]["typed_config"]["text"] == "connection.uri_san_peer_certificate"
    assert path["extension"]["typed_config"]["text"] == "request.url_path"
    assert filters(bootstrap(sidecar()), "inbound")["envoy.filters.http.ratelimit"]["domain"] == "shop"


def test_a_workload_cannot_forge_the_peer_header_on_its_way_out():
    document = bootstrap(sidecar())
    assert manager(document, "outbound")["forward_client_cert_details"] == "SANITIZE"
    assert list(filters(document, "outbound")) == ["envoy.filters.http.router"]


@pytest.mark.parametrize(("name", "duration"), [("outbound-peer", "2.5s"), ("meshward", "60.0s")])
def test_connections_are_replaced_so_that_no_certificate_in_use_has_expired(name, duration):
    options = cluster(bootstrap(sidecar()), name)["typed_extension_protocol_options"]
    (http,) = options.values()
    assert http["common_http_protocol_options"] == {"max_connection_duration": duration}


def test_no_listener_shares_its_port():
    for each in bootstrap(sidecar())["static_resources"]["listeners"]:
        assert each["enable_reuse_port"] is False


def test_there_is_no_admin_interface_unless_it_is_given():
    assert "admin" not in bootstrap(sidecar())
    admin = bootstrap(sidecar(admin=at(15000)))["admin"]
    assert admin["address"] == {"socket_address": {"address": "127.0.0.1", "port_value": 15000}}


def test_a_unix_socket_of_the_control_plane_is_called_without_tls():
    server = cluster(bootstrap(sidecar(control_plane=ControlPlane(UnixSocket("/run/mesh.sock")))), "meshward")
    ((endpoint,),) = [locality["lb_endpoints"] for locality in server["load_assignment"]["endpoints"]]
    assert endpoint["endpoint"]["address"] == {"pipe": {"path": "/run/mesh.sock"}}
    assert server["type"] == "STATIC"
    assert "transport_socket" not in server


@pytest.mark.parametrize(("spiffe_id", "cluster_name"), [(API, "api.shop"), (API.trust_domain.id, "default.default")])
def test_the_node_is_named_after_the_workload(spiffe_id, cluster_name):
    node = bootstrap(sidecar(spiffe_id=spiffe_id))["node"]
    assert node["cluster"] == cluster_name


def test_a_sidecar_may_only_listen_or_only_call():
    document = bootstrap(sidecar(inbound=(), outbound=()))
    assert document["static_resources"]["listeners"] == []
    assert [each["name"] for each in document["static_resources"]["clusters"]] == ["sds", "meshward"]
