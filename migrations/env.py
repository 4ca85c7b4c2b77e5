"""Alembic environment: apply the migrations in the transaction of the given connection.

To start a new migration, run in a Python shell

    alembic.command.revision(agent.store.schema_revision.alembic_config(), "what changes", rev_id="0002")

tests/store/test_upgrade.py checks that the migrations produce the tables of the code.
"""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    transactional_ddl=True,  # also for SQLite, since agent.store.database begins its transactions explicitly
)
with context.begin_transaction():
    context.run_migrations()
