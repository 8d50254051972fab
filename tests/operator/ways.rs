//! Plays that are lived in several ways, with one end.

use futures::stream::{self, StreamExt};

use crate::chronicle::Chronicle;
use crate::plays::{End, Play};
use crate::yard::Yard;

/// Lives that are lived at the same time.
const AT_ONCE: usize = 8;

/// Lives each play calmly, and in so many other ways, in which `start` starts the operator by their seeds: it comes to the same end.
pub(crate) async fn end_alike(
    plays: impl IntoIterator<Item = &'static Play>,
    ways: u64,
    start: impl Fn(&mut Yard, u64) + Copy,
) {
    let seeds = || [None].into_iter().chain((0..ways).map(Some));
    let lives: Vec<_> = plays.into_iter().flat_map(|play| seeds().map(move |seed| (play, seed))).collect();
    let lives = stream::iter(lives).map(|(play, seed)| async move {
        let end = live(play, |yard| match seed {
            Some(seed) => start(yard, seed),
            None => yard.start_operator(),
        });
        (play.name, seed, end.await)
    });
    let ends: Vec<(&str, Option<u64>, End)> = lives.buffered(AT_ONCE).collect().await;
    let mut calm = None;
    for (name, seed, end) in ends {
        match seed {
            None => calm = Some(end),
            Some(seed) => assert_eq!(Some(end), calm, "{name} in the way of seed {seed}"),
        }
    }
}

async fn live(play: &Play, start: impl FnOnce(&mut Yard)) -> End {
    let mut yard = Yard::idle(play.name, play.nodes).await;
    let chronicle = Chronicle::begin(&yard).await;
    start(&mut yard);
    let end = (play.act)(&yard).await;
    chronicle.keeps_what_was_promised(&yard).await;
    yard.leave();
    end
}
