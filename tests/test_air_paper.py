"""AIR against the two worked examples of UniQA Fig. 14, whose ranks by relevance (AR) and by length (IR) can be read off."""

import numpy as np
import pytest

from iqa_repro.captions.purification import air_ranks, informativeness, ranks
from iqa_repro.study.printed import printed_comments

# DIFFERENCES.md G, AIR (Fig. 14): AR ranks of the comments in IR order, and AR + IR in the printed order
EXAMPLES = {
    1: ([1, 2, 6, 5, 3, 4, 9, 7, 8], [2, 4, 8, 9, 9, 10, 15, 16, 17]),
    2: ([8, 3, 1, 7, 4, 5, 2, 6, 10, 9], [4, 5, 9, 9, 9, 11, 11, 14, 19, 19]),
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_ranks_alone_give_the_printed_sums(example):
    relevance_ranks, sums = map(np.array, EXAMPLES[example])
    n = len(sums)
    comments = ["x" * (n - i) for i in range(n)]  # IR order: the longest first
    air = air_ranks(comments, -relevance_ranks)
    total = relevance_ranks + np.arange(1, n + 1)
    assert total[np.argsort(air)].tolist() == sums.tolist()
    assert sorted(air) == list(range(1, n + 1))  # ties are broken, every place is taken once


@pytest.mark.parametrize("example", EXAMPLES)
def test_printed_comments_keep_their_order_up_to_ties(example):
    table = printed_comments().query("example == @example").sort_values("ir")
    relevance_ranks, sums = EXAMPLES[example]
    assert table["ar"].tolist() == relevance_ranks
    assert ranks(informativeness(table["comment"].tolist())).tolist() == table["ir"].tolist()
    total = (table["ar"] + table["ir"]).to_numpy()
    ours = air_ranks(table["comment"].tolist(), -table["ar"].to_numpy())
    assert total[np.argsort(ours)].tolist() == total[np.argsort(table["air"])].tolist() == sums
    untied = np.isin(total, [s for s in sums if sums.count(s) == 1])
    assert ours[untied].tolist() == table["air"][untied].tolist() and untied.sum() >= 3


def test_one_strategy_alone_gives_its_own_order_and_other_sums():
    relevance_ranks, sums = map(np.array, EXAMPLES[2])
    comments = ["x" * (10 - i) for i in range(10)]
    assert air_ranks(comments, -relevance_ranks, beta=0).tolist() == relevance_ranks.tolist()
    assert air_ranks(comments, -relevance_ranks, alpha=0).tolist() == list(range(1, 11))
    alone = (relevance_ranks + np.arange(1, 11))[np.argsort(relevance_ranks)]
    assert alone.tolist() != sums.tolist()  # so the sums above do test that both count
