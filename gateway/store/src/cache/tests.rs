//! What the cache keeps, for how long, and what it gives up. Time stands still unless a test moves it.

use super::*;
use crate::row::{pack_rows, tests::view_of};
use tokio::time::advance;
use weir_domain::catalog::{Freshness, View};
use weir_domain::{Cell, Column, FeatureType, Kind};

const SECOND: Duration = Duration::from_secs(1);

fn view() -> View {
    let mut view = view_of(&[FeatureType::One(Kind::I64)]);
    view.cache = Freshness {
        fresh_for: 10 * SECOND,
        revalidate_for: Duration::ZERO,
        stale_for: 60 * SECOND,
        negative_for: 2 * SECOND,
    };
    view
}

fn row(view: &View) -> Bytes {
    let cell = Cell { column: Column::I64(vec![7]), provenance: vec![Provenance::Store] };
    pack_rows(view, &[cell], &[0]).unwrap().remove(0)
}

fn packed(view: &View) -> Shape {
    Shape::Packed(std::sync::Arc::new(view.clone()))
}

fn look(cache: &Cache, view: &View, max_stale: Option<Duration>) -> &'static str {
    match cache.look(b"k", &packed(view), max_stale, Instant::now()) {
        Look::Fresh(..) => "fresh",
        Look::Negative => "negative",
        Look::Aging(..) => "aging",
        Look::Old(..) => "old",
        Look::Nothing => "nothing",
    }
}

fn keep(cache: &Cache, view: &View, row: Option<Bytes>) {
    cache.keep(b"k", &packed(view), row.as_deref(), Instant::now());
}

fn empty() -> Cache {
    Cache::new(CacheSettings::default(), DefaultHashBuilder::default(), None)
}

#[tokio::test(start_paused = true)]
async fn a_row_is_fresh_then_old_then_gone() {
    let (cache, view) = (empty(), view());
    assert_eq!(look(&cache, &view, None), "nothing");
    keep(&cache, &view, Some(row(&view)));
    assert_eq!(look(&cache, &view, None), "fresh");
    advance(10 * SECOND).await;
    assert_eq!(look(&cache, &view, None), "old");
    advance(50 * SECOND).await;
    assert_eq!(look(&cache, &view, None), "old");
    advance(Duration::from_millis(1)).await;
    assert_eq!(look(&cache, &view, None), "nothing");
}

#[tokio::test(start_paused = true)]
async fn a_row_that_ages_is_served_for_its_time_and_never_past_stale_for() {
    let (cache, mut view) = (empty(), view());
    view.cache.revalidate_for = 20 * SECOND;
    keep(&cache, &view, Some(row(&view)));
    advance(10 * SECOND).await;
    assert_eq!(look(&cache, &view, None), "aging");
    assert_eq!(look(&cache, &view, Some(9 * SECOND)), "nothing", "the caller takes nothing so old");
    advance(20 * SECOND).await;
    assert_eq!(look(&cache, &view, None), "old");
    view.cache.revalidate_for = 200 * SECOND;
    assert_eq!(look(&cache, &view, None), "aging");
    advance(31 * SECOND).await;
    assert_eq!(look(&cache, &view, None), "nothing");
}

#[tokio::test(start_paused = true)]
async fn max_stale_bounds_fresh_rows_and_negatives_too() {
    let (cache, view) = (empty(), view());
    keep(&cache, &view, Some(row(&view)));
    advance(5 * SECOND).await;
    assert_eq!(look(&cache, &view, Some(5 * SECOND)), "fresh");
    assert_eq!(look(&cache, &view, Some(4 * SECOND)), "nothing");
    keep(&cache, &view, None);
    advance(SECOND).await;
    assert_eq!(look(&cache, &view, Some(Duration::ZERO)), "nothing");
    assert_eq!(look(&cache, &view, None), "negative");
    advance(SECOND).await;
    assert_eq!(look(&cache, &view, None), "nothing", "a negative is never stale");
}

#[tokio::test(start_paused = true)]
async fn an_entity_that_is_gone_from_the_store_is_gone_from_the_cache() {
    let (cache, mut view) = (empty(), view());
    view.cache.negative_for = Duration::ZERO;
    keep(&cache, &view, Some(row(&view)));
    keep(&cache, &view, None);
    assert_eq!(look(&cache, &view, None), "nothing");
}

#[tokio::test(start_paused = true)]
async fn a_view_without_freshness_is_not_cached_and_a_new_schema_forgets_the_old_rows() {
    let (cache, mut view) = (empty(), view());
    keep(&cache, &view, Some(row(&view)));
    let newer = View { fingerprint: 1, ..view.clone() };
    assert_eq!(look(&cache, &newer, None), "nothing");
    view.cache = Freshness { negative_for: SECOND, ..Freshness::default() };
    keep(&cache, &view, Some(row(&view)));
    assert_eq!(cache.entries.get(b"k".as_slice()).map(|e| e.row), None);
}

#[tokio::test(start_paused = true)]
async fn a_row_that_the_store_says_again_is_as_new_as_the_last_time() {
    let (cache, view) = (empty(), view());
    keep(&cache, &view, Some(row(&view)));
    advance(50 * SECOND).await;
    let Look::Old(_, entry) = cache.look(b"k", &packed(&view), None, Instant::now()) else { panic!("an old row") };
    assert!(!entry.said_again(&Bytes::from_static(b"another row"), Instant::now()));
    assert_eq!(look(&cache, &view, None), "old");
    assert!(entry.said_again(&row(&view), Instant::now()));
    assert_eq!(look(&cache, &view, None), "fresh", "every copy of the entry knows");
}

#[test]
fn the_cache_stays_within_its_bytes() {
    let (cache, view) =
        (Cache::new(CacheSettings { capacity_bytes: 100_000 }, DefaultHashBuilder::default(), None), view());
    for i in 0..5_000u32 {
        cache.keep(&i.to_le_bytes(), &packed(&view), Some(&[0; 1_000]), Instant::now());
    }
    cache.entries.run_pending_tasks();
    assert!(cache.bytes() <= 100_000 && cache.entries() > 10, "{} bytes", cache.bytes());
}

#[tokio::test(start_paused = true)]
async fn half_is_given_up_and_those_read_last_stay() {
    let (cache, view) = (empty(), view());
    let shape = packed(&view);
    let keep = |key: u8| cache.keep(&[key], &shape, Some(&row(&view)), Instant::now());
    let knows = |key: u8| matches!(cache.look(&[key], &shape, None, Instant::now()), Look::Fresh(..));
    for key in 0..9 {
        keep(key);
        advance(Duration::from_millis(1)).await;
    }
    assert_eq!(cache.halve(), 5);
    // Copies of those that went are as true as before, and gone in seconds.
    cache.front.forget_all();
    assert_eq!((0..9).filter(|key| knows(*key)).collect::<Vec<_>>(), [5, 6, 7, 8]);
    assert_eq!(cache.entries(), 4);
    assert_eq!([cache.halve(), cache.halve(), cache.halve(), cache.halve()], [2, 1, 1, 0]);

    // Read at the same time, half of them stay all the same.
    (0..8).for_each(keep);
    assert_eq!((cache.halve(), cache.entries()), (4, 4));
}

#[tokio::test(start_paused = true)]
async fn once_half_is_given_up_it_grows_to_five_eighths_until_there_is_memory() {
    const COUNT: u32 = 4 * (ROOM_BYTES_MIN as u32) / ENTRY_OVERHEAD_BYTES as u32;
    let (cache, view) = (empty(), view());
    let shape = packed(&view);
    let keep = |key: u32| {
        cache.keep(&key.to_be_bytes(), &shape, Some(&row(&view)), Instant::now());
        cache.entries.run_pending_tasks();
    };
    (0..COUNT).for_each(keep);
    assert_eq!((cache.halve() as u32, cache.entries() as u32), (COUNT / 2, COUNT / 2));
    (COUNT..2 * COUNT).for_each(keep);
    assert_eq!(cache.entries() as u32, COUNT / 8 * 5);
    // What it knows is kept up.
    let known = cache.entries.iter().next().unwrap().0;
    advance(20 * SECOND).await;
    cache.keep(&known, &shape, Some(&row(&view)), Instant::now());
    assert!(matches!(cache.look(&known, &shape, None, Instant::now()), Look::Fresh(..)));
    cache.grow();
    (COUNT..2 * COUNT).for_each(keep);
    assert!(cache.entries() as u32 > COUNT);
}
