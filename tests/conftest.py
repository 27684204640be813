"Files of minutes come first: two run at a time (tools/check.py), and a long one at the end would keep the other process waiting."

LONG = ("test_full_profile.py", "test_reproduce.py", "test_benchmarks.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
