//! Who enters, who is degraded and who is refused. Time is what the test says.

use super::*;

const MS: Duration = Duration::from_millis(1);
const TARGET: Duration = Duration::from_millis(4);

fn admission(max: usize) -> Arc<Admission> {
    Arc::new(Admission::new(max, Some(TARGET), 1, Instant::now()))
}

/// Looks, one after the other: the core was busy for so much of the time, and so many answers took so long each.
struct Looks<'a> {
    admission: &'a Admission,
    busy: Duration,
    now: Instant,
    granted: Duration,
}

impl<'a> Looks<'a> {
    /// After the first, which only says what the start has cost.
    fn at(admission: &'a Admission) -> Self {
        admission.learn(Duration::ZERO, admission.began);
        Self { admission, busy: Duration::ZERO, now: admission.began, granted: 20 * MS }
    }

    fn look(&mut self, busy: Duration, answers: usize, spent: Duration) {
        (0..answers).for_each(|_| self.admission.answered(self.granted, spent));
        self.busy += busy;
        self.now += LOOK_EVERY;
        self.admission.learn(self.busy, self.now);
    }
}

fn visitor(admission: &Admission, caller: &str, priority: Priority) -> Visitor {
    Visitor { priority, seat: admission.seat(caller.as_bytes()), through: Through::Weir }
}

/// Enters as often as it is let in full, then as often as degraded; returns the permits and both numbers.
fn crowd(admission: &Arc<Admission>, visitor: Visitor) -> (Vec<Permit>, [usize; 2]) {
    let (mut permits, mut counts) = (Vec::new(), [0, 0]);
    while let Ok(permit) = admission.enter(visitor, Instant::now()) {
        counts[permit.mode as usize] += 1;
        assert!(permit.mode == Mode::Degraded || counts[1] == 0, "degraded before refused");
        permits.push(permit);
    }
    (permits, counts)
}

#[test]
fn a_permit_is_given_back_however_its_request_ends() {
    let admission = admission(2);
    let visitor = visitor(&admission, "a", Priority::Normal);
    let first = admission.enter(visitor, Instant::now()).unwrap();
    let second = admission.enter(visitor, Instant::now()).unwrap();
    assert!(matches!(admission.enter(visitor, Instant::now()), Err(Refusal::Overloaded { .. })));
    assert_eq!((admission.in_flight(), admission.refused(Priority::Normal, Crowded::Full)), (2, 1));
    drop(first);
    let third = admission.enter(visitor, Instant::now()).unwrap();
    drop((second, third));
    assert_eq!(admission.in_flight(), 0);
    assert_eq!(admission.shares.divide(1), 0);
}

#[test]
fn everybody_is_degraded_before_anybody_is_refused_and_the_dearest_last() {
    for (priority, full, all) in
        [(Priority::Sheddable, 330, 495), (Priority::Normal, 495, 660), (Priority::Critical, 660, 825)]
    {
        let admission = admission(1_000);
        let (permits, counts) = crowd(&admission, visitor(&admission, "a", priority));
        assert_eq!(counts, [full, all - full], "{priority:?}");
        assert_eq!(admission.in_flight_of(priority), all);
        assert_eq!(admission.refused(priority, Crowded::Limit), 1);
        drop(permits);
    }
}

#[test]
fn callers_of_feast_are_refused_last_of_all() {
    let admission = admission(1_000);
    let native = visitor(&admission, "a", Priority::Normal);
    let (_permits, _) = crowd(&admission, Visitor { priority: Priority::Critical, ..native });
    let feast = Visitor { priority: Priority::Sheddable, through: Through::Feast { budget: 200 * MS }, ..native };
    let (_more, counts) = crowd(&admission, feast);
    assert_eq!(counts, [0, 990 - 825]);
}

#[test]
fn a_caller_that_asks_for_little_is_served_in_full_beside_one_that_asks_for_everything() {
    let admission = admission(1_000);
    let now = Instant::now();
    let noisy = visitor(&admission, "noisy", Priority::Normal);
    let mut others = (0..).map(|n| visitor(&admission, &format!("quiet {n}"), Priority::Normal));
    let quiet = others.find(|quiet| quiet.seat != noisy.seat).expect("many");
    let mut here = vec![admission.enter(quiet, now).unwrap()];
    let (mut noise, _) = crowd(&admission, noisy);
    let mut looks = Looks::at(&admission);
    for _ in 1..50 {
        looks.look(MS, 1, MS);
        assert_eq!(admission.callers(), 2);
        // The noisy one takes whatever becomes free, at once.
        noise.truncate(noise.len() - 20);
        noise.extend(crowd(&admission, noisy).0);
        for _ in 0..5 {
            let permit = admission.enter(quiet, now).expect("the quiet one is never refused");
            assert_eq!(permit.mode, Mode::Full);
            here.push(permit);
        }
        here.truncate(1);
    }
    assert!(admission.refused(Priority::Normal, Crowded::Share) > 0);
    assert!(admission.in_flight() <= 660 + 5, "{}", admission.in_flight());
    // And one that may be shed has no share of what is full.
    assert!(admission.enter(Visitor { priority: Priority::Sheddable, ..quiet }, now).is_err());
}

#[test]
fn under_pressure_who_has_waited_for_too_long_is_degraded_then_not_begun() {
    let admission = admission(1_000);
    let native = visitor(&admission, "a", Priority::Normal);
    let at = Instant::now();
    let through = Through::Feast { budget: 200 * MS };
    let mut feast = admission.enter(Visitor { through, ..native }, at).unwrap();
    let mut here: Vec<Permit> = (0..20).map(|_| admission.enter(native, at).unwrap()).collect();
    assert_eq!(here[0].begin(|| None, at + 500 * MS), Ok(Mode::Full), "nobody else waits: late is better than never");
    let mut looks = Looks::at(&admission);
    (0..20).for_each(|_| looks.look(LOOK_EVERY, 10, 30 * MS));
    assert_eq!(here[1].begin(|| None, at + MS), Ok(Mode::Full));
    assert_eq!(here[2].begin(|| None, at + 6 * MS), Ok(Mode::Degraded));
    assert!(here[3].begin(|| None, at + 11 * MS).is_err());
    assert!(here[4].begin(|| Some(4 * MS), at + 3 * MS).is_err(), "the caller's own time counts");
    assert_eq!(feast.begin(|| None, at + 30 * MS), Ok(Mode::Full));
    assert_eq!(admission.refused(Priority::Normal, Crowded::Wait), 2);
    assert_eq!(admission.degraded(Priority::Normal), 1);
    here.truncate(NEVER_BELOW - 1);
    assert_eq!(here[1].begin(|| None, at + 500 * MS), Ok(Mode::Full), "so few are not what the cores are busy with");
}

#[test]
fn the_limit_falls_while_full_cores_answer_late_and_rises_again_within_two_seconds() {
    let admission = admission(2_000);
    let mut looks = Looks::at(&admission);
    (0..20).for_each(|_| looks.look(LOOK_EVERY, 50, 2 * TARGET));
    assert!(admission.limit() <= 100, "{}", admission.limit());
    assert_eq!(admission.spent(), 2 * TARGET);
    let rising = (1..=200).take_while(|_| {
        looks.look(LOOK_EVERY / 2, 50, MS);
        admission.limit() < 1_320
    });
    assert!(rising.count() < 200);
}

#[test]
fn once_the_limit_was_learned_few_are_degraded_but_for_callers_of_feast() {
    let admission = admission(1_000);
    let native = visitor(&admission, "a", Priority::Normal);
    let mut looks = Looks::at(&admission);
    (0..20).for_each(|_| looks.look(LOOK_EVERY, 0, MS));
    assert_eq!(admission.limit(), LIMIT_MIN);
    let mut here: Vec<Permit> = (0..NEVER_BELOW).map(|_| admission.enter(native, Instant::now()).unwrap()).collect();
    let degraded = || (0..100).filter(|_| admission.enter(native, Instant::now()).is_ok()).count();
    assert_eq!(degraded(), DEGRADED_AHEAD as usize, "one after the other");
    (0..FULL_PER_DEGRADED).for_each(|_| admission.answered(20 * MS, MS));
    assert_eq!(degraded(), 1);
    let feast = Visitor { through: Through::Feast { budget: 200 * MS }, ..native };
    here.extend((0..2).map(|_| admission.enter(feast, Instant::now()).unwrap()));
    assert!(here[NEVER_BELOW..].iter().all(|permit| permit.mode == Mode::Degraded));
}

#[test]
fn looks_are_taken_one_at_a_time_and_not_too_often() {
    let admission = admission(10);
    let now = admission.began;
    assert!(admission.is_look_due(now));
    assert!(!admission.is_look_due(now + 100 * LOOK_EVERY), "that one has not told yet");
    admission.learn(Duration::ZERO, now);
    assert!(!admission.is_look_due(now + LOOK_EVERY / 2));
    assert!(admission.is_look_due(now + LOOK_EVERY));
}

#[test]
fn who_is_refused_together_does_not_come_back_together_and_later_the_more_there_are() {
    let admission = admission(1);
    let visitor = visitor(&admission, "a", Priority::Normal);
    let mut here = admission.enter(visitor, Instant::now()).unwrap();
    let refused = || match admission.enter(visitor, Instant::now()) {
        Err(Refusal::Overloaded { retry_after }) => retry_after,
        other => panic!("{other:?}"),
    };
    let mut first: Vec<Duration> = (0..10).map(|_| refused()).collect();
    first.sort_unstable();
    first.dedup();
    assert_eq!(first.len(), 10);
    assert!(first[0] >= RETRY_AFTER / 2 && first[9] <= RETRY_AFTER * 3 / 2);
    here.begin(|| None, Instant::now()).unwrap();
    Looks::at(&admission).look(MS, 1, MS);
    assert!((0..10).map(|_| refused()).min() >= Some(RETRY_AFTER * 5), "eleven times what there is room for");
}

#[test]
fn a_small_budget_makes_a_short_queue() {
    let is_pressed = |granted: Duration| {
        let admission = Admission::new(1_000, None, 1, Instant::now());
        let mut looks = Looks { granted, ..Looks::at(&admission) };
        (0..20).for_each(|_| looks.look(LOOK_EVERY, 50, 4 * MS));
        admission.is_pressed.load(Relaxed)
    };
    assert!(!is_pressed(20 * MS));
    assert!(is_pressed(5 * MS));
}

#[test]
fn memory_degrades_then_refuses_whatever_was_learned() {
    let admission = admission(100);
    let enter = |priority| admission.enter(visitor(&admission, "a", priority), Instant::now()).map(|p| p.mode);
    assert_eq!(enter(Priority::Normal), Ok(Mode::Full));
    admission.press(Pressure::Shrink);
    assert_eq!(enter(Priority::Sheddable), Ok(Mode::Full));
    admission.press(Pressure::Degrade);
    assert_eq!([Priority::Critical, Priority::Normal].map(enter), [Ok(Mode::Degraded), Ok(Mode::Degraded)]);
    assert!(enter(Priority::Sheddable).is_err());
    admission.press(Pressure::Refuse);
    assert!(Priority::ALL.map(enter).iter().all(Result::is_err));
    let refused = Priority::ALL.map(|priority| admission.refused(priority, Crowded::Memory));
    assert_eq!(refused.iter().sum::<u64>(), 4);
    admission.press(Pressure::None);
    assert_eq!(enter(Priority::Normal), Ok(Mode::Full));
}
