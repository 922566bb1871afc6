"""Jobs: pods that run to completion, the Jobs that a schedule makes, and finished Jobs that go after a while."""
