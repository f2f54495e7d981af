"""What the database layer's exceptions mean, in this project's own kinds."""

import sqlite3

from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.core.errors import ConflictError, InternalError, InvalidInputError, MeshwardError, UnavailableError

# SQLSTATE classes (PostgreSQL manual, appendix A) after which the same call may succeed: connection exception,
# transaction rollback (deadlock), insufficient resources, object not in prerequisite state (lock timeout),
# operator intervention (shutdown, cancelled statement), system error.
_PASSING_SQLSTATES = ("08", "40", "53", "55", "57", "58")
# "Data exception": a value that the column cannot hold, such as text with a NUL character.
_BAD_VALUE_SQLSTATE = "22"
# disk_full and read_only_sql_transaction, as on a standby.
_DISK_FULL_SQLSTATE, _READ_ONLY_SQLSTATE = "53100", "25006"
# The codes of the same kind among SQLite's primary result codes (sqlite.org/rescode.html).
_PASSING_SQLITE_CODES = frozenset(
    (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_INTERRUPT,
    )
)
_PRIMARY_CODE = 0xFF

AWAY = "the database is away or refuses the call; try again"
DISK_FULL = "the disk of the database is full: free some space"
READ_ONLY = "the database can only be read: see whether it is a standby, and whose its files are"


class DatabaseAwayError(UnavailableError):
    """No connection could be made. The message names the place and the reason, for the operator alone."""


def translate(error: Exception) -> MeshwardError:
    """Return the error to raise instead of `error`, whose text (statements, addresses) stays behind as the cause."""
    match error:
        case DatabaseAwayError():
            return UnavailableError(AWAY)
        case IntegrityError():
            return ConflictError("it exists already, or something it refers to does not")
        case OSError() | TimeoutError() | PoolTimeoutError() | InterfaceError():
            return UnavailableError(AWAY)
        case DBAPIError(connection_invalidated=True):
            return UnavailableError(AWAY)
        case DBAPIError(orig=sqlite3.Error() as cause):
            return _of_sqlite(cause)
        case DBAPIError(orig=cause):
            return _of_sqlstate(getattr(cause, "sqlstate", None) or "")
        case _:
            return InternalError("the database layer failed")


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether a statement on SQLite failed because another connection holds a lock."""
    return _primary_code(error) == sqlite3.SQLITE_BUSY


def _of_sqlite(cause: sqlite3.Error) -> MeshwardError:
    if _primary_code(cause) == sqlite3.SQLITE_FULL:
        return UnavailableError(DISK_FULL)
    if _primary_code(cause) == sqlite3.SQLITE_READONLY:
        return UnavailableError(READ_ONLY)
    if _primary_code(cause) in _PASSING_SQLITE_CODES:
        return UnavailableError(AWAY)
    return InternalError("the database refused a statement")


def _primary_code(error: sqlite3.Error) -> int:
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & _PRIMARY_CODE


def _of_sqlstate(sqlstate: str) -> MeshwardError:
    if sqlstate == _DISK_FULL_SQLSTATE:
        return UnavailableError(DISK_FULL)
    if sqlstate == _READ_ONLY_SQLSTATE:
        return UnavailableError(READ_ONLY)
    if sqlstate.startswith(_PASSING_SQLSTATES):
        return UnavailableError(AWAY)
    if sqlstate.startswith(_BAD_VALUE_SQLSTATE):
        return InvalidInputError("a value has a character or a size that the database cannot store")
    return InternalError("the database refused a statement")
