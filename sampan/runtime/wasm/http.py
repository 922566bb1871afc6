"""placeholder"""


class Server:
    def __init__(self, *a: object) -> None: ...
    def run(self) -> tuple[int, str, str]:
        raise NotImplementedError
