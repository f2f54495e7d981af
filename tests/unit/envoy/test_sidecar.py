import pytest

from app.core.errors import InvalidInputError
from app.core.net import Address, UnixSocket
from app.envoy.bootstrap import bootstrap
from app.envoy.sidecar import Protocol, sidecar_of

API = "spiffe://example.org/ns/shop/sa/api"


def read(**changes):
    values = {
        "spiffe_id": "spiffe://example.org/ns/shop/sa/web",
        "sds_socket": "/run/meshward/agent.sock",
        "control_plane": "meshward.example.org:15012",
        "control_plane_name": "",
        "admin": None,
        "quota_domain": "mesh",
        "check": Protocol.GRPC,
        "inbound": ("0.0.0.0:15006=127.0.0.1:8080",),
        "outbound": (f"127.0.0.1:15001=[fd00::7]:15006={API}",),
        "label": ("app=web", "version=v1"),
    }
    return sidecar_of(**{**values, **changes})


def test_options_become_a_sidecar():
    sidecar = read()
    assert str(sidecar.spiffe_id) == "spiffe://example.org/ns/shop/sa/web"
    assert sidecar.control_plane.name == "meshward.example.org"
    assert sidecar.inbound[0].listen == Address("0.0.0.0", 15006)
    assert sidecar.outbound[0].peer == Address("fd00::7", 15006)
    assert str(sidecar.outbound[0].peer_id) == API
    assert sidecar.labels == {"app": "web", "version": "v1"}


def test_the_control_planes_certificate_may_carry_another_name_than_its_address():
    assert read(control_plane="10.0.0.1:15012", control_plane_name="istiod").control_plane.name == "istiod"


def test_the_control_plane_may_be_a_unix_socket():
    assert read(control_plane="unix:/run/mesh.sock").control_plane.address == UnixSocket("/run/mesh.sock")


def test_the_admin_interface_is_off_unless_asked_for():
    assert read().admin is None
    assert read(admin="127.0.0.1:15000").admin == Address("127.0.0.1", 15000)


def test_names_are_resolved_and_addresses_are_not():
    clusters = bootstrap(read())["static_resources"]["clusters"]
    assert {each["name"]: each["type"] for each in clusters} == {
        "sds": "STATIC",
        "meshward": "STRICT_DNS",
        "inbound-15006-workload": "STATIC",
        "outbound-15001-peer": "STATIC",
    }


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"spiffe_id": "example.org"}, "--spiffe-id"),
        ({"spiffe_id": "spiffe://example.org"}, "--spiffe-id"),
        ({"sds_socket": "agent.sock"}, "--sds-socket"),
        ({"sds_socket": "/" + "x" * 107}, "--sds-socket"),
        ({"control_plane": "meshward"}, "--control-plane"),
        ({"control_plane": "unix:mesh.sock"}, "--control-plane"),
        ({"control_plane": "unix:/run/mesh.sock", "control_plane_name": "istiod"}, "--control-plane-name"),
        ({"admin": "127.0.0.1:0"}, "--admin"),
        ({"quota_domain": ""}, "--quota-domain"),
        ({"inbound": ("127.0.0.1:1",)}, "--inbound"),
        ({"inbound": ("127.0.0.1:1=127.0.0.1:2=x",)}, "--inbound"),
        ({"outbound": ("127.0.0.1:1=127.0.0.1:2",)}, "--outbound"),
        ({"outbound": ("127.0.0.1:1=127.0.0.1:2=spiffe://example.org",)}, "--outbound"),
        ({"label": ("app",)}, "--label"),
        ({"label": ("app=a,b",)}, "--label"),
        ({"label": ("app=%REQ(x)%",)}, "--label"),
    ],
)
def test_a_wrong_option_is_named(change, option):
    with pytest.raises(InvalidInputError) as caught:
        read(**change)
    assert caught.value.message.startswith(f"{option}: ")
    assert caught.value.violations[0].path == option
