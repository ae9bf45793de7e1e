"""The order in which a worker of named queues looks at them: strict, or by weights."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Union

STRICT = "strict"


class QueueOrder:
    """See the module. Without an order, priority and age decide among all jobs of the queues.

    `order` is STRICT, or the weights of the queues, or None.
    """

    def __init__(self, queues: Sequence[str], order: Union[str, Sequence[int], None]) -> None:
        self.is_set = order is not None
        self._queues = list(queues)
        self._weights = None if order is None or isinstance(order, str) else order

    def steps(self, n: int) -> Iterator[tuple[str, int]]:
        """Queues, and how many jobs at most to claim from each, until `n` are claimed.

        By weights, each free slot goes to a queue drawn at random. What a queue cannot use goes to the others.
        """
        rest = self._queues
        if self._weights is not None:
            drawn = random.choices(self._queues, self._weights, k=n)  # noqa: S311  keeps no secret
            for queue in dict.fromkeys(drawn):
                yield queue, drawn.count(queue)
            rest = random.sample(self._queues, len(self._queues))
        for queue in rest:
            yield queue, n
