//! Two pods, one log, one history, a few people, and everything that can go wrong, from one seed; compared with a model that reads the log.
//!
//! `CHATIFY_SEEDS=20000 cargo test -p chatify-application simulation` runs more seeds than usual.

mod client;
mod model;
mod world;

use crate::testing::for_seeds;
use world::World;

#[test]
fn everyone_sees_every_accepted_message_once_and_in_order() {
    for_seeds(0..1_000, |seed| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let mut world = World::new(seed).await;
            for _ in 0..40 {
                world.step().await;
            }
            world.heal().await;
            world.check().await;
        });
    });
}
