"""How Alembic runs a step: on the connection that it is handed, in that connection's transaction."""

from typing import Any, Literal

from alembic import context
from sqlalchemy.types import TypeDecorator

from migrations.tables import METADATA


def render_item(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Render a type of our own as its plain type: a step must not change when the code does."""
    return f"sa.{item.impl!r}" if kind == "type" and isinstance(item, TypeDecorator) else False


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
