"""The unit of work: one transaction, one repository, committed at the boundary or not at all."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Generic, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.db.errors import DatabaseAwayError, translate

Repository_co = TypeVar("Repository_co", covariant=True)


class Transactions(Generic[Repository_co]):
    """Makes transactions whose repository is built by `repository` from a session."""

    def __init__(self, engine: AsyncEngine, repository: Callable[[AsyncSession], Repository_co]) -> None:
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)
        self._repository = repository

    def __call__(self) -> AbstractAsyncContextManager[Repository_co]:
        """Open a transaction: commits when the block ends, rolls back when it raises.

        Raises ConflictError if a constraint was violated, InvalidInputError if the database cannot store a value,
        UnavailableError if it cannot be reached or is busy, InternalError for any other fault of the database layer.
        """
        return self._begin()

    @asynccontextmanager
    async def _begin(self) -> AsyncIterator[Repository_co]:
        try:
            async with self._sessions.begin() as session:
                yield self._repository(session)
        except (SQLAlchemyError, DatabaseAwayError, OSError, TimeoutError) as error:
            raise translate(error) from error
