"""Tables that break one promise each.

`BROKEN_TABLES` names, for each test of `CoordinatorContract`, tables that it must reject.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from agentref.coherence.memory import MemoryTable
from agentref.testing import broken_feeds as feeds
from agentref.testing import broken_leases as leases
from agentref.testing import broken_rows as rows

__all__ = ["BROKEN_TABLES"]

_COMMITS: Final[Mapping[str, type[MemoryTable]]] = {
    "test_what_was_never_written_is_at_version_0": rows.FindsAnything,
    "test_a_commit_is_what_is_read_from_then_on": rows.ForgetsWhere,
    "test_every_change_is_the_next_version": rows.ForgetsWriters,
    "test_a_write_from_a_stale_view_is_refused_and_changes_nothing": rows.SwapsWithoutComparing,
    "test_a_refusal_carries_what_can_be_the_next_base": rows.SwapsWithoutComparing,
    "test_of_writers_from_one_view_exactly_one_wins": rows.LooksThenSwaps,
    "test_of_writers_that_create_exactly_one_wins": rows.LocksWhatIsThere,
    "test_no_increment_is_lost": rows.LooksThenSwaps,
    "test_a_commit_of_many_keys_is_all_or_nothing": rows.KeepsHalf,
    "test_what_is_read_together_is_of_one_moment": rows.LoadsRowByRow,
    "test_a_commit_that_rests_on_what_has_moved_is_refused": rows.SwapsWithoutComparing,
    "test_two_commits_that_rest_on_each_other_do_not_both_pass": rows.LocksWhatIsWritten,
    "test_a_deletion_is_a_version_and_versions_never_restart": rows.DropsTombstones,
    "test_content_that_came_back_is_not_what_it_was": rows.ReusesRows,
    "test_a_commit_that_changes_nothing_moves_nothing": rows.TouchesAlways,
    "test_a_view_of_the_future_is_corruption": rows.SwallowsErrors,
    "test_a_view_of_another_history_is_refused": rows.OneContent,
    "test_a_gate_lets_pass_what_stands": rows.LoadsFromACache,
    "test_what_a_decision_raises_is_raised_as_it_is": rows.WrapsErrors,
    "test_a_probe_tells_of_every_change_of_a_row": rows.ProbesVersions,
    "test_keys_are_told_apart": rows.FoldsCase,
    "test_keys_are_listed_by_the_parts_that_they_begin_with": rows.ScansText,
    "test_what_is_deleted_is_not_listed": rows.KeepsContent,
    "test_pages_of_keys_leave_no_gap_and_overlap_nowhere": rows.ScansBackwards,
    "test_the_bounds_of_a_scan_are_from_and_before": rows.ScansToTheStop,
    "test_a_key_may_be_long": rows.CutsKeys,
    "test_a_table_has_a_name_of_its_own": rows.SameName,
    "test_views_and_leases_of_another_coordinator_are_foreign": rows.SameName,
    "test_a_closed_coordinator_says_so": rows.NeverClosed,
    "test_the_verbs_for_event_loops_do_the_same": rows.OfOneThread,
    "test_an_event_loop_goes_on_while_one_of_its_tasks_waits": rows.StuckProbe,
    "test_tasks_of_an_event_loop_lose_no_increment": rows.LooksThenSwaps,
}

_LEASES: Final[Mapping[str, type[MemoryTable]]] = {
    "test_a_lease_is_as_it_was_granted": leases.WholeSeconds,
    "test_only_shared_leases_stand_beside_each_other": leases.DropsLeases,
    "test_of_agents_that_want_it_exactly_one_gets_it": rows.LooksThenSwaps,
    "test_fences_only_grow": leases.ForgetsFences,
    "test_a_renewed_lease_outlives_its_first_end": leases.ForgetsRenewals,
    "test_a_lease_that_ended_is_taken_back_by_whoever_comes_across_it": leases.ForgetsEpochs,
    "test_a_late_writer_is_fenced_though_the_version_never_moved": leases.ForgetsEpochs,
    "test_a_refusal_by_what_has_just_ended_carries_the_next_base": leases.EternalLeases,
    "test_a_release_fences_the_late_writes_of_the_releaser": leases.ForgetsEpochs,
    "test_the_end_of_a_shared_lease_fences_nobody": leases.EpochAtEveryEnd,
    "test_a_commit_under_the_lease_of_another_is_refused": leases.DropsLeases,
    "test_leases_are_not_in_the_feed": feeds.EntriesForLeases,
    "test_a_lease_that_has_ended_is_of_no_use": leases.KeepsLeases,
    "test_a_lease_is_released_once": rows.TouchesAlways,
    "test_recover_ends_what_an_agent_held_and_nothing_else": leases.FindsOneLease,
    "test_a_sweep_takes_back_what_has_expired_and_nothing_else": leases.FindsAllLeases,
    "test_leases_are_found_by_when_they_end": leases.FindsLeasesByKey,
    "test_a_clock_that_jumps_ahead_ends_leases_for_good": leases.KeepsLeases,
    "test_a_clock_that_is_set_back_keeps_nobody_waiting": leases.ForgetsTtl,
    "test_who_waits_gets_what_is_released": rows.OldSnapshot,
    "test_who_waits_gets_what_expires": leases.EternalLeases,
    "test_who_waits_gets_what_is_recovered": leases.FindsNoLease,
    "test_a_stream_of_readers_does_not_keep_a_writer_out": leases.ForgetsWaiters,
    "test_who_waits_keeps_no_commit_out": leases.WaitersHold,
    "test_who_waited_in_vain_is_in_nobodys_way": leases.EternalWaiters,
}

_FEED: Final[Mapping[str, type[MemoryTable]]] = {
    "test_a_change_tells_what_stands_there_now": feeds.ForgetsEpochsOfChanges,
    "test_a_commit_is_one_entry": feeds.EntryForEachKey,
    "test_commits_come_in_their_order": feeds.NumbersBeforeTheCommit,
    "test_a_page_has_at_most_so_many_commits": feeds.IgnoresTheLimit,
    "test_every_cursor_of_a_page_is_a_place_to_go_on_from": feeds.OneCursorForAPage,
    "test_the_head_is_after_all_that_was_committed": feeds.HeadIsTheBeginning,
    "test_a_page_that_is_read_twice_is_the_same": feeds.ConsumesEntries,
    "test_every_reader_sees_the_versions_of_a_key_one_by_one": feeds.AppendsAfterwards,
    "test_who_follows_step_by_step_misses_nothing": feeds.LosesEntries,
    "test_what_is_no_cursor_is_refused": feeds.TakesAnyCursor,
    "test_the_cursor_of_another_feed_is_told_apart": feeds.TakesAnyFeed,
    "test_a_cursor_of_before_what_was_compacted_is_too_old": feeds.SkipsWhatIsGone,
    "test_a_sweep_drops_what_is_old": feeds.NeverCompacts,
    "test_who_waits_for_the_feed_is_told_of_a_commit": feeds.DeafWait,
    "test_what_was_committed_before_the_wait_is_not_waited_for": feeds.DeafWait,
    "test_a_wait_for_the_feed_ends_by_itself": feeds.FailsInTheEnd,
}

_MORE: Final[Mapping[str, type[MemoryTable]]] = {
    "test_keys_are_told_apart": rows.JoinsParts,
    "test_a_commit_is_one_entry": feeds.DoublesEntries,
    "test_a_probe_tells_of_every_change_of_a_row": rows.CountsRevisions,
}

BROKEN_TABLES: Final[Mapping[str, Sequence[type[MemoryTable]]]] = {
    name: [kind, *([_MORE[name]] if name in _MORE else [])]
    for name, kind in {**_COMMITS, **_LEASES, **_FEED}.items()
}
