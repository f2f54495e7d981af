"""Every table there is, so that the steps can be compared with what the code expects."""

import app.audit.tables
import app.authz.tables
import app.ca.tables
import app.documents.tables  # noqa: F401 - importing a module registers its tables
from app.db.base import Base

METADATA = Base.metadata
