"""How Alembic runs a step: on the connection that it is handed, in that connection's transaction."""

from typing import Any, Literal

from alembic import context

from app.db.base import UtcDateTime
from migrations.tables import METADATA


def render_item(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Spell a type of ours by what it is in the database: a step must not change when the code does."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcDateTime) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    # SQLite can undo a change of its tables as well, within the transaction that is already open.
    transactional_ddl=True,
    # SQLite cannot alter a table: it is copied.
    render_as_batch=True,
    compare_type=True,
    render_item=render_item,
)
with context.begin_transaction():
    context.run_migrations()
