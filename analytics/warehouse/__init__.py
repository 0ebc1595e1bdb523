"""Events as tables: DDL and SQL for ClickHouse, which run on chDB unchanged."""
