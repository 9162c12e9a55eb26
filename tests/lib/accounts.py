"""Settles the books between what was acknowledged and what arrived."""


def missing_from(acknowledged, sinks, it=None):
    """Ids that were promised and neither arrived anywhere nor wait in the queue of `it`."""
    arrived = set()
    for s in sinks:
        arrived |= set(s.ids())
    missing = set(acknowledged) - arrived
    if missing and it is not None:
        missing -= waiting_ids(it, missing)
    return missing


def waiting_ids(it, wanted):
    """Which of these ids lie in the queues of the appliance, dead letters included."""
    if hasattr(it, "queued_ids"):
        return it.queued_ids(wanted)
    found = set()
    for m in it.messages():
        text = str(m)
        hits = {i for i in wanted if i + "@" in text or f"'{i}'" in text}
        if not hits:
            a = it.rest.get(f"/api/v1/messages/{m['id']}/content")
            hits = {i for i in wanted if i.encode() in a.body}
        found |= hits
    return found


def untied_duplicates(sink, moments, before=1.0, after=0.5):
    """Deliveries of one id beyond the first, as (all, those not tied to a delivery in flight at one of the moments).

    A repeated delivery is explained when the one before it was answered at most `before` seconds ahead of a
    kill (its outcome may not have been kept) or until `after` it.
    """
    times = {}
    for d in sink.accepted():
        times.setdefault(d.id, []).append(d.at)
    every, untied = [], []
    for id, at in times.items():
        at.sort()
        for first, second in zip(at, at[1:]):
            every.append(id)
            if not any(m - before <= first <= m + after and second >= m for m in moments):
                untied.append((id, first, second))
    return every, untied
