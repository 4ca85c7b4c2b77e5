"""Run by Alembic: applies the migrations inside the transaction of the connection that `agent.store.schema` hands over.

A new migration begins, in a Python shell, as
    alembic.command.revision(agent.store.schema.alembic_config(), "what changes", rev_id="0002")
and is complete when tests/store/test_upgrade.py finds that it leads to the tables of the code.
"""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    transactional_ddl=True,  # of SQLite too, since agent.store.database begins its transactions itself
)
with context.begin_transaction():
    context.run_migrations()
