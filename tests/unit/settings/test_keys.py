"""The settings of where private keys are."""

import pytest

from app.core.errors import InvalidInputError
from app.settings import load


def test_keys_are_files_without_a_passphrase_by_default():
    keys = load({}).settings.keys
    assert (keys.store, keys.passphrase_file) == ("disk", None)


def test_a_token_has_a_library_a_label_and_a_pin():
    variables = {"STORE": "pkcs11", "PKCS11_MODULE": "/usr/lib/softhsm/libsofthsm2.so", "PKCS11_PIN_FILE": "/pin"}
    keys = load({f"MESHWARD_KEYS_{name}": value for name, value in variables.items()}).settings.keys
    assert (keys.store, keys.pkcs11_token, str(keys.pkcs11_pin_file)) == ("pkcs11", "meshward", "/pin")


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"STORE": "vault"}, "store"),
        ({"STORE": "pkcs11"}, "needs pkcs11_module"),
        ({"STORE": "pkcs11", "PKCS11_MODULE": "/m"}, "needs pkcs11_module"),
        ({"PKCS11_MODULE": "/m", "PKCS11_PIN_FILE": "/p"}, "needs pkcs11_module"),
        ({"STORE": "memory", "PASSPHRASE_FILE": "/p"}, "for keys on disk"),
        ({"PKCS11_TOKEN": "x" * 33}, "pkcs11_token"),
    ],
)
def test_what_does_not_fit_is_refused(variables, problem):
    with pytest.raises(InvalidInputError, match=problem):
        load({f"MESHWARD_KEYS_{name}": value for name, value in variables.items()})
