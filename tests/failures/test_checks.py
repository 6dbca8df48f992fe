"""What is checked after each failure can be seen: planted by hand, it is found out."""

from __future__ import annotations

import pytest
from failures.cluster import Cluster

_COPY = "jsonb_populate_record(r, jsonb_build_object('n', r.n + 1000, 'run_id', r.run_id || ' again'))"


def test_what_the_checks_look_for_is_found_where_it_is(cluster: Cluster) -> None:
    (a,) = cluster.add_all("a")
    cluster.count_transitions()
    a.do("start", workflow="local-fan-out", data=2, run_id="root")
    assert a.do("result", run_id="root") == 1
    cluster.check()

    def finds(text: str) -> None:
        with pytest.raises(AssertionError, match=text):
            cluster.check(0.3)

    cluster.sql("UPDATE rotor_runs SET ended_at = ended_at + 1 WHERE run_id = 'root'")
    finds("4 ends of 3 runs")
    cluster.sql("DELETE FROM audit WHERE ctid = (SELECT max(ctid) FROM audit)")
    cluster.check()

    cluster.sql("UPDATE audit SET n = 0 WHERE ctid = (SELECT max(ctid) FROM audit)")
    cluster.sql("DELETE FROM audit WHERE n = 0")
    finds("2 ends of 2 runs; rows: ..?3")
    cluster.sql("INSERT INTO audit(n) VALUES (0)")
    cluster.check()

    cluster.sql("INSERT INTO rotor_mail(addressee, kind) VALUES (0, 'of no kind')")
    finds("all mail to be taken")
    cluster.sql("DELETE FROM rotor_mail")
    cluster.check()

    cluster.sql(
        f"INSERT INTO rotor_runs SELECT copy.* FROM rotor_runs AS r, LATERAL {_COPY} AS copy WHERE r.parent_n IS NOT NULL"
    )
    finds("spawned twice")
    cluster.sql("DELETE FROM rotor_runs WHERE run_id LIKE '% again'")
    cluster.sql("DELETE FROM audit WHERE NOT n IN (SELECT n FROM rotor_runs) AND n <> 0")
    cluster.check()

    cluster.sql(
        "UPDATE rotor_runs SET ended_at = NULL, owner = (SELECT max(number) FROM rotor_replicas) WHERE run_id = 'root'"
    )
    finds("all runs to end")
