"""Run by Alembic: applies the migrations inside the transaction of the connection that `agent.store.schema` hands over."""

from __future__ import annotations

from alembic import context

from agent.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # of SQLite too, since agent.store.database begins its transactions itself
)
with context.begin_transaction():
    context.run_migrations()
