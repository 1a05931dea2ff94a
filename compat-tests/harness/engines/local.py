"""A directory of this machine, as every gateway shows it: the walk and its helpers without an engine."""


class Local:
    """No engine."""

    name = "local"

    def __init__(self, home, mounts=3):
        self.points = [home / "tree"] * mounts

    def start(self):
        """Makes the directory."""
        self.points[0].mkdir(parents=True, exist_ok=True)
        return self

    def kill_storage(self):
        """There is none."""

    def revive_storage(self):
        """There is none."""

    def stop(self):
        """Leaves the directory to who made its parent."""
