"""Run by Alembic: applies the migrations inside the transaction of the connection that `agent.store.schema` hands over.

A new migration begins as
    python -c "from alembic import command as c; from agent.store.schema import alembic_config as a; c.revision(a(), 'what', rev_id='0002')"
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
