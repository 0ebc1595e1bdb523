"""Events to tables to numbers to a decision. Owns the words of an experiment; knows nothing of gateway, serving or finetune."""


def __getattr__(name: str) -> object:
    # `import analytics; analytics.report("vivid-colours")` in a notebook, while `import analytics` itself loads nothing.
    if name == "report":
        from importlib import import_module

        return import_module("analytics.report")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
