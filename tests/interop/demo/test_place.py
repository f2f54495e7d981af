import socket

from app.demo.place import HOST, choose_addresses


def test_the_usual_port_is_chosen_if_it_is_free():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    assert choose_addresses({"one": port})["one"].port == port


def test_another_port_is_chosen_if_the_usual_one_is_in_use():
    with socket.socket() as holder:
        holder.bind((HOST, 0))
        holder.listen()
        port = holder.getsockname()[1]
        chosen = choose_addresses({"one": port, "two": port})
    assert port not in {chosen["one"].port, chosen["two"].port}


def test_no_two_get_the_same_port():
    chosen = choose_addresses({str(name): 0 for name in range(20)})
    assert len({address.port for address in chosen.values()}) == 20


def test_a_chosen_port_can_be_used():
    (address,) = choose_addresses({"one": 0}).values()
    with socket.socket() as listener:
        listener.bind((address.host, address.port))
