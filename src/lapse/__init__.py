"""lapse: one live conversation per pair of addresses; idle and expired ones end on time, exactly once.

The names that `lapse.public` lists are the public interface; everything else may move. They are loaded on first use,
so that `import lapse` and `lapse --help` stay fast.
"""

TYPE_CHECKING = False  # True for type checkers; importing it from `typing` would double the time of `import lapse`
if TYPE_CHECKING:
    from lapse.public import *  # noqa: F403
else:
    # Hidden from type checkers, which would accept every misspelt name because of it.
    def __getattr__(name):
        modules = _public_modules()
        if name == "__all__":
            return sorted(modules)
        if name not in modules:
            raise AttributeError(f"module 'lapse' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(modules[name]), name)


__version__ = "0.1.0"
_modules: dict[str, str] = {}


def __dir__() -> list[str]:
    return [*globals(), *_public_modules()]


def _public_modules() -> dict[str, str]:
    """Return the module of each public name, as listed by the import statements of `lapse.public`.

    They are executed with an `__import__` that records its arguments and imports nothing. Unlike reading the source,
    this also works where only compiled files are installed.
    """
    if not _modules:
        from importlib.util import find_spec
        from types import SimpleNamespace

        modules: dict[str, str] = {}

        def record(module: str, _globals: object, _locals: object, names: tuple[str, ...], _level: int) -> object:
            modules.update(dict.fromkeys(names, module))
            return SimpleNamespace(**dict.fromkeys(names))

        code = find_spec("lapse.public").loader.get_code("lapse.public")  # type: ignore[union-attr]
        exec(code, {"__builtins__": {"__import__": record}})  # noqa: S102 - the package's own code
        _modules.update(modules)  # in one step, for threads
    return _modules
