"""The unit of work: one transaction, one repository, committed at the boundary or not at all."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.db.engine import time_limit, to_end
from app.db.errors import DatabaseAwayError, translate

Repository_co = TypeVar("Repository_co", covariant=True)

# What the statements, the commit and the waiting for a connection of one transaction may take together on PostgreSQL:
# with what it takes to drop the connection, a server that has stopped is answered for within 5 seconds. SQLite's
# statements run to their end in a thread; what they wait for has its own limits.
POSTGRES_TRANSACTION_SECONDS = 3.5


class Transactions(Generic[Repository_co]):
    """Makes transactions whose repository is built by `repository` from a session."""

    def __init__(self, engine: AsyncEngine, repository: Callable[[AsyncSession], Repository_co]) -> None:
        session = _BoundedSession if engine.dialect.name == "postgresql" else AsyncSession
        self._sessions = async_sessionmaker(engine, class_=session, expire_on_commit=False)
        self._repository = repository

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Repository_co]:
        """Open a transaction: commits when the block ends, rolls back when it raises.

        Raises ConflictError if a constraint was violated, InvalidInputError if the database cannot store a value,
        UnavailableError if it cannot be reached, is busy, cannot write or does not answer in time, InternalError for
        any other fault of the database layer. After UnavailableError of a commit that was not answered, what was
        written may be there or not.
        """
        try:
            async with self._sessions() as session:
                yield self._repository(session)
                await to_end(session.commit())
        except (SQLAlchemyError, DatabaseAwayError, OSError, TimeoutError) as error:
            raise translate(error) from error


class _BoundedSession(AsyncSession):
    """A session whose calls of the database may take POSTGRES_TRANSACTION_SECONDS in all.

    Not the time between them, in which documents are compiled. The connection of a call that took longer is closed.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._left = POSTGRES_TRANSACTION_SECONDS

    async def execute(self, *arguments: Any, **options: Any) -> Any:
        async with self._bounded():
            return await super().execute(*arguments, **options)

    async def scalar(self, *arguments: Any, **options: Any) -> Any:
        async with self._bounded():
            return await super().scalar(*arguments, **options)

    async def run_sync(self, *arguments: Any, **options: Any) -> Any:
        async with self._bounded():
            return await super().run_sync(*arguments, **options)

    async def commit(self) -> None:
        async with self._bounded():
            await super().commit()

    async def close(self) -> None:
        async with self._bounded():
            await super().close()

    @asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        started = time.monotonic()
        try:
            async with time_limit(self._left):
                yield
        finally:
            self._left -= time.monotonic() - started
