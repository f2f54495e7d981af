"""How hypothesis runs everywhere: without a deadline for an example, which a busy machine would miss."""

from hypothesis import settings

settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")
