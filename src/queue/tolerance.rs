//! What a next hop has shown that it takes: fewer sessions at once than it is offered, fewer messages in one session.
//!
//! | what the next hop does | what follows |
//! |---|---|
//! | refuses one session more while others go on | no more than those |
//! | the same with 421 | half of what there was |
//! | puts off most of ten messages or more within ten seconds | half of what there is |
//! | ends a session with 421 after so many messages | no more than so many in a session |
//!
//! Each minute in which it takes mail gives back one, until nothing is left to give back. What has not been seen for an hour is
//! forgotten.

use std::time::Duration;

use crate::model::time::Timestamp;

/// How long mail has to go well until one more is tried.
const RECOVERY: Duration = Duration::from_secs(60);
/// What was lowered is not lowered again so soon: sessions that fail together count once.
const TOGETHER: Duration = Duration::from_secs(5);
/// What was learned and not seen again for so long is forgotten.
const HOLDS: Duration = Duration::from_secs(3_600);
/// The span in which a burst is counted.
const SPAN: Duration = Duration::from_secs(10);
/// So many messages put off in a span are a burst, if they are more than were taken.
const BURST: u32 = 10;

/// What has been learned of a next hop.
#[derive(Debug, Default)]
pub(super) struct Tolerance {
    sessions: Option<Learned>,
    messages: Option<Learned>,
    span: Span,
}

/// A limit that nobody has said.
#[derive(Debug, Clone, Copy)]
struct Learned {
    most: u32,
    /// What it was before: there it ends.
    until: u32,
    changed: Timestamp,
}

#[derive(Debug, Default)]
struct Span {
    from: Option<Timestamp>,
    taken: u32,
    put_off: u32,
}

impl Tolerance {
    /// Most sessions at once, if it has shown any.
    pub fn sessions(&self) -> Option<u32> {
        self.sessions.map(|learned| learned.most)
    }

    /// Most messages in a session, if it has shown any.
    pub fn messages(&self) -> Option<u32> {
        self.messages.map(|learned| learned.most)
    }

    /// Until when it has to be remembered.
    pub fn remembered_until(&self) -> Option<Timestamp> {
        [self.sessions, self.messages].into_iter().flatten().map(|learned| learned.changed + HOLDS).max()
    }

    /// Forgets what is too old.
    pub fn forget_old(&mut self, now: Timestamp) {
        for learned in [&mut self.sessions, &mut self.messages] {
            *learned = learned.filter(|learned| now < learned.changed + HOLDS);
        }
    }

    /// It refused one more session than these; with 421, or otherwise.
    pub fn refused_a_session(&mut self, open: usize, with_421: bool, now: Timestamp) {
        let open = u32::try_from(open).unwrap_or(u32::MAX);
        let most = if with_421 { open.saturating_add(1) / 2 } else { open };
        lower(&mut self.sessions, most, open.saturating_add(1), now);
    }

    /// It answered for a message, and put some of it off or not. `open`: sessions that there are.
    pub fn answered(&mut self, put_off: bool, open: usize, now: Timestamp) {
        if self.span.from.is_none_or(|from| now >= from + SPAN || now < from) {
            self.span = Span { from: Some(now), ..Span::default() };
        }
        if !put_off {
            self.span.taken = self.span.taken.saturating_add(1);
            return recover(&mut self.sessions, now);
        }
        self.span.put_off = self.span.put_off.saturating_add(1);
        if self.span.put_off >= BURST && self.span.put_off > self.span.taken {
            let open = u32::try_from(open).unwrap_or(u32::MAX);
            lower(&mut self.sessions, open / 2, open, now);
            self.span = Span::default();
        }
    }

    /// A session has ended in which it answered for so many messages; it ended it itself with 421, or not.
    pub fn ended_a_session(&mut self, answered: u64, with_421: bool, now: Timestamp) {
        let answered = u32::try_from(answered).unwrap_or(u32::MAX);
        if with_421 && answered > 0 {
            lower(&mut self.messages, answered, u32::MAX, now);
        } else if self.messages.is_some_and(|learned| answered >= learned.most) {
            recover(&mut self.messages, now);
        }
    }
}

fn lower(learned: &mut Option<Learned>, most: u32, before: u32, now: Timestamp) {
    let most = most.max(1);
    match learned {
        Some(known) if now < known.changed + TOGETHER && known.most <= most.saturating_mul(2) => {}
        Some(known) => {
            known.most = known.most.min(most);
            known.changed = now;
        }
        None => *learned = Some(Learned { most, until: before.max(most.saturating_add(1)), changed: now }),
    }
}

fn recover(learned: &mut Option<Learned>, now: Timestamp) {
    let Some(known) = learned.as_mut().filter(|known| now >= known.changed + RECOVERY) else { return };
    known.most = known.most.saturating_add(1);
    known.changed = now;
    if known.most >= known.until {
        *learned = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens, and how long after what came before.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        Refused {
            open: usize,
            with_421: bool,
        },
        Took,
        /// So many put off, one after the other.
        PutOff {
            times: u32,
            open: usize,
        },
        Ended {
            answered: u64,
            with_421: bool,
        },
        Time,
    }
    use Event::{Ended, PutOff, Refused, Time, Took};

    #[test]
    fn a_next_hop_gets_what_it_takes_and_more_again_when_it_recovers() {
        let refused = |open, with_421| Refused { open, with_421 };
        let ended = |answered, with_421| Ended { answered, with_421 };
        // seconds since the last, event, sessions, messages
        for (name, steps) in [
            (
                "421: half, then one a minute of success",
                vec![
                    (0, refused(7, true), Some(4), None),
                    (1, refused(6, true), Some(4), None),
                    (58, Took, Some(4), None),
                    (1, Took, Some(5), None),
                    (1, Took, Some(5), None),
                    (60, Took, Some(6), None),
                    (60, Took, Some(7), None),
                    (60, Took, None, None),
                ],
            ),
            (
                "again after it did not help",
                vec![
                    (0, refused(15, true), Some(8), None),
                    (10, refused(7, true), Some(4), None),
                    (10, refused(3, true), Some(2), None),
                    (10, refused(1, true), Some(1), None),
                    (10, refused(1, true), Some(1), None),
                    (60, Took, Some(2), None),
                ],
            ),
            ("otherwise: just no more", vec![(0, refused(7, false), Some(7), None), (60, Took, None, None)]),
            (
                "a burst of 4xx",
                vec![
                    (0, PutOff { times: 9, open: 8 }, None, None),
                    (1, PutOff { times: 1, open: 8 }, Some(4), None),
                    (1, PutOff { times: 10, open: 8 }, Some(4), None),
                    (10, PutOff { times: 10, open: 4 }, Some(2), None),
                ],
            ),
            (
                "now and then one is no burst",
                vec![
                    (0, PutOff { times: 9, open: 8 }, None, None),
                    (11, PutOff { times: 9, open: 8 }, None, None),
                    (11, PutOff { times: 9, open: 8 }, None, None),
                ],
            ),
            (
                "so many in a session",
                vec![
                    (0, ended(20, true), None, Some(20)),
                    (30, ended(20, false), None, Some(20)),
                    (31, ended(20, false), None, Some(21)),
                    (60, ended(3, false), None, Some(21)),
                    (1, ended(20, true), None, Some(20)),
                ],
            ),
            ("421 before anything says nothing about messages", vec![(0, ended(0, true), None, None)]),
            (
                "forgotten after an hour",
                vec![(0, refused(7, true), Some(4), None), (3_599, Time, Some(4), None), (1, Time, None, None)],
            ),
        ] {
            let mut tolerance = Tolerance::default();
            let mut now = Timestamp::from_millis(1_795_000_000_000);
            for (index, (seconds, event, sessions, messages)) in steps.into_iter().enumerate() {
                now = now + Duration::from_secs(seconds);
                match event {
                    Refused { open, with_421 } => tolerance.refused_a_session(open, with_421, now),
                    Took => tolerance.answered(false, 1, now),
                    PutOff { times, open } => (0..times).for_each(|_| tolerance.answered(true, open, now)),
                    Ended { answered, with_421 } => tolerance.ended_a_session(answered, with_421, now),
                    Time => tolerance.forget_old(now),
                }
                let is = (tolerance.sessions(), tolerance.messages());
                assert_eq!(is, (sessions, messages), "{name}, step {index}: {event:?}");
            }
        }
    }

    #[test]
    fn mail_that_goes_well_beside_outweighs_what_is_put_off() {
        let mut tolerance = Tolerance::default();
        let now = Timestamp::from_millis(1_795_000_000_000);
        (0..50).for_each(|_| tolerance.answered(false, 8, now));
        (0..50).for_each(|_| tolerance.answered(true, 8, now));
        assert_eq!(tolerance.sessions(), None);
        tolerance.answered(true, 8, now);
        assert_eq!(tolerance.sessions(), Some(4));
        assert!(tolerance.remembered_until().is_some_and(|until| until == now + HOLDS));
    }
}
