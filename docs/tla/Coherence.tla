----------------------------- MODULE Coherence -----------------------------
(* One artifact, its leases, and agents that cache it and write it from views that may be old.              *)
(* The channel of invalidations loses, doubles, delays and reorders them. Time is what is left of leases.   *)
(* The names of the invariants are those of tests/machines/coherence_steps.py.                             *)
EXTENDS Naturals, FiniteSets, TLC

CONSTANTS Agents, MaxVersion, MaxFence, Ttl

VARIABLES row,      \* what stands in the table: version, epoch, fence, leases
          ended,    \* how many exclusive leases have ended: counted apart from the epoch, to judge it
          cache,    \* of each agent: the last view, whether its revision is that of the row, and a hold
          block,    \* of each agent: the fence of the lease that it believes to have, or 0
          signals,  \* agents to whom an invalidation is on its way
          fetched,  \* of each agent: a row that was fetched in the background and is not cached yet
          shown,    \* the view that an agent was shown as fresh just now, and what stood there
          written   \* the commit that was accepted just now: its base, and what stood there

vars == <<row, ended, cache, block, signals, fetched, shown, written>>

Nothing == [version |-> 0, epoch |-> 0, ended |-> 0, current |-> FALSE, leases |-> {}, hold |-> 0, left |-> 0]
Blank == [version |-> 0, ended |-> 0, stoodVersion |-> 0, stoodEnded |-> 0, others |-> {}, holds |-> {}]
Quiet == shown' = Blank /\ written' = Blank  \* nothing is shown, and nothing written

\* ---- The rules -----------------------------------------------------------------------------------------

Lives(lease) == lease.left > 0
Exclusive(leases) == {lease \in leases : lease.exclusive}

Settled(r) ==  \* an exclusive lease that ended takes the epoch with it
    LET dead == {lease \in r.leases : ~Lives(lease)}
    IN [r EXCEPT !.leases = @ \ dead, !.epoch = @ + Cardinality(Exclusive(dead))]

EndedBy(r) == ended + Cardinality(Exclusive(r.leases) \ {l \in r.leases : Lives(l)})

Refused(r, base, fence) ==
    \/ fence # 0 /\ ~\E lease \in r.leases : lease.fence = fence           \* lease_lost
    \/ base.version # r.version                                            \* version_mismatch
    \/ \E lease \in r.leases : lease.fence # fence                         \* held_by_other
    \/ base.epoch # r.epoch                                                \* stale_epoch

MayShow(c) == c.current /\ \A lease \in c.leases : Lives(lease)
StillHolds(c) == c.hold # 0 /\ c.left > 0

\* ---- How the parts change --------------------------------------------------------------------------------

View(r, n) == [version |-> r.version, epoch |-> r.epoch, ended |-> n, current |-> TRUE, leases |-> r.leases,
               hold |-> 0, left |-> 0]

Outdated(c, new) ==
    IF new = row THEN c ELSE [a \in Agents |-> [c[a] EXCEPT !.current = FALSE, !.leases = {}]]
Swap(new) ==  \* the row changes: what others have cached is of another revision
    /\ row' = new
    /\ ended' = EndedBy(row) + Cardinality(Exclusive({l \in row.leases : Lives(l)} \ new.leases))
    /\ fetched' = Outdated(fetched, new)

Shows(a, view) == shown' = [Blank EXCEPT !.version = view.version, !.ended = view.ended,
                                         !.stoodVersion = row.version, !.stoodEnded = EndedBy(row)]
                  /\ written' = Blank

Granted(r, a, exclusive) ==
    [r EXCEPT !.fence = @ + 1,
              !.leases = @ \cup {[holder |-> a, exclusive |-> exclusive, fence |-> r.fence + 1, left |-> Ttl]}]

\* ---- What can happen -------------------------------------------------------------------------------------

ReadHit(a) ==
    /\ StillHolds(cache[a]) \/ (cache[a].hold = 0 /\ MayShow(cache[a]))
    /\ Shows(a, cache[a])
    /\ UNCHANGED <<row, ended, cache, block, signals, fetched>>

ReadMiss(a) ==
    /\ ~(StillHolds(cache[a]) \/ (cache[a].hold = 0 /\ MayShow(cache[a])))
    /\ LET given == {l \in Settled(row).leases : l.fence # cache[a].hold}
           new == [Settled(row) EXCEPT !.leases = given]
       IN /\ Swap(new)
          /\ cache' = [Outdated(cache, new) EXCEPT ![a] = View(new, ended')]
          /\ Shows(a, cache'[a])
    /\ UNCHANGED <<block, signals>>

ReadAndHold(a) ==  \* under a shared lease nobody can commit, and nobody need be asked
    /\ cache[a].hold = 0 /\ block[a] = 0 /\ row.fence < MaxFence
    /\ LET old == Settled(row)
           new == Granted(old, a, FALSE)
       IN /\ Exclusive(old.leases) = {}
          /\ Swap(new)
          /\ cache' = [Outdated(cache, new) EXCEPT ![a] =
                         [View(new, ended') EXCEPT !.hold = new.fence, !.left = Ttl - 1]]
          /\ Shows(a, cache'[a])
    /\ UNCHANGED <<block, signals>>

Commit(a, fence) ==  \* from whatever was read last, however long ago
    /\ row.version < MaxVersion
    /\ LET old == Settled(row)
           new == [old EXCEPT !.version = @ + 1]
       IN /\ ~Refused(old, cache[a], fence)
          /\ Swap(new)
          /\ cache' = [Outdated(cache, new) EXCEPT ![a] =
                         [View(new, ended') EXCEPT !.hold = cache[a].hold, !.left = cache[a].left]]
    /\ written' = [version |-> cache[a].version, ended |-> cache[a].ended,
                   stoodVersion |-> row.version, stoodEnded |-> EndedBy(row),
                   others |-> {l \in row.leases : Lives(l) /\ l.fence # fence},
                   holds |-> {b \in Agents \ {a} : StillHolds(cache[b])}]
    /\ signals' = signals \cup (Agents \ {a})
    /\ shown' = Blank /\ UNCHANGED block

Acquire(a) ==
    /\ block[a] = 0 /\ cache[a].hold = 0 /\ row.fence < MaxFence
    /\ LET old == Settled(row)
           new == Granted(old, a, TRUE)
       IN /\ old.leases = {}
          /\ Swap(new)
          /\ cache' = Outdated(cache, new)
          /\ block' = [block EXCEPT ![a] = new.fence]
    /\ Quiet /\ UNCHANGED signals

Drop(fences) ==  \* a release, a recovery (of all leases of an agent), or with no fences a sweep
    LET old == Settled(row)
        gone == {l \in old.leases : l.fence \in fences}
        new == [old EXCEPT !.leases = @ \ gone, !.epoch = @ + Cardinality(Exclusive(gone))]
    IN /\ Swap(new)
       /\ cache' = Outdated(cache, new)
       /\ Quiet /\ UNCHANGED signals

Release(a) == block[a] # 0 /\ Drop({block[a]}) /\ block' = [block EXCEPT ![a] = 0]

Sweep == Drop({}) /\ UNCHANGED block

Crash(a) ==  \* it forgets; its leases stay in the row until they expire
    /\ cache' = [cache EXCEPT ![a] = Nothing]
    /\ fetched' = [fetched EXCEPT ![a] = Nothing]
    /\ block' = [block EXCEPT ![a] = 0]
    /\ Quiet /\ UNCHANGED <<row, ended, signals>>

Recover(a) ==
    /\ cache[a] = Nothing /\ block[a] = 0
    /\ Drop({l.fence : l \in {l \in row.leases : l.holder = a}})
    /\ UNCHANGED block

Fetch(a) ==  \* an invalidation arrives, perhaps for the first time, and may come again
    /\ a \in signals /\ cache[a].hold = 0
    /\ fetched' = [fetched EXCEPT ![a] = View(row, ended)]
    /\ \A l \in row.leases : Lives(l)
    /\ Quiet /\ UNCHANGED <<row, ended, cache, block, signals>>

Cached(a) ==  \* what was fetched arrives in the cache: late, maybe
    /\ fetched[a] # Nothing /\ cache[a].hold = 0
    /\ cache' = [cache EXCEPT ![a] = fetched[a]]
    /\ fetched' = [fetched EXCEPT ![a] = Nothing]
    /\ Quiet /\ UNCHANGED <<row, ended, block, signals>>

Lose(a) == a \in signals /\ signals' = signals \ {a}
           /\ Quiet /\ UNCHANGED <<row, ended, cache, block, fetched>>

Less(n) == IF n = 0 THEN 0 ELSE n - 1
Later(leases) == {[l EXCEPT !.left = Less(@)] : l \in leases}
Tick == /\ row' = [row EXCEPT !.leases = Later(@)]
        /\ cache' = [a \in Agents |-> [cache[a] EXCEPT !.leases = Later(@), !.left = Less(@)]]
        /\ fetched' = [a \in Agents |-> [fetched[a] EXCEPT !.leases = Later(@)]]
        /\ Quiet /\ UNCHANGED <<ended, block, signals>>

Init == /\ row = [version |-> 0, epoch |-> 0, fence |-> 0, leases |-> {}]
        /\ ended = 0 /\ signals = {} /\ shown = Blank /\ written = Blank
        /\ cache = [a \in Agents |-> Nothing] /\ fetched = cache /\ block = [a \in Agents |-> 0]

Next == \/ Tick \/ Sweep
        \/ \E a \in Agents : \/ ReadHit(a) \/ ReadMiss(a) \/ ReadAndHold(a) \/ Acquire(a) \/ Release(a)
                             \/ \E fence \in {0, cache[a].hold, block[a]} : Commit(a, fence)
                             \/ Crash(a) \/ Recover(a) \/ Fetch(a) \/ Cached(a) \/ Lose(a)

Alike == Permutations(Agents)

Spec == Init /\ [][Next]_vars

\* ---- What must hold --------------------------------------------------------------------------------------

NoStaleShow == shown.version = shown.stoodVersion /\ shown.ended = shown.stoodEnded
NoLostUpdate == written.version = written.stoodVersion
LateWriterFenced == written.ended = written.stoodEnded
HoldKeepsOthersOut == written.holds = {}
SingleWriter == /\ written.others = {}
                /\ LET alive == {l \in row.leases : Lives(l)}
                   IN Exclusive(alive) # {} => Cardinality(alive) = 1
CrashedOwnerYields == /\ \A l \in row.leases : l.left <= Ttl
                      /\ \A l \in Settled(row).leases : Lives(l)
NothingGoesBack == [][row'.version >= row.version /\ row'.epoch >= row.epoch /\ row'.fence >= row.fence]_vars
=============================================================================
