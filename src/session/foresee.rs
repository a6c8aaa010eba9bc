//! Long texts that nobody knows yet are analysed elsewhere: whoever parses one would keep its thread from all other
//! clients that the thread serves.

use std::sync::Arc;
use std::time::Instant;

use super::Session;
use super::serve::Work;
use crate::sql::Analysis;
use crate::wire::frontend::{self, Parse, tag};
use crate::wire::{Frame, Frames};

/// A shorter one takes some 0.2 ms at the most, in bytes.
pub(super) const LONG: usize = 1024;

/// Texts and what they say.
pub(super) type Foreseen = Vec<(Box<[u8]>, Arc<Analysis>)>;

impl Session {
    /// Has such texts among the messages analysed, for [`Session::analysis_of`], until they are served. Where there are
    /// any: when they had come.
    pub(super) async fn foresee(&mut self, work: &Work) -> Option<Instant> {
        let Work::Messages { bytes, .. } = work else { return None };
        let texts: Vec<Box<[u8]>> = Frames::new(bytes)
            .map_while(Result::ok)
            .filter_map(|frame| text_of(&frame))
            .filter(|text| text.len() > LONG && !self.proxy.analyses.knows(text))
            .map(Box::from)
            .collect();
        if texts.is_empty() {
            return None;
        }
        let asked_at = Instant::now();
        let proxy = Arc::clone(&self.proxy);
        let analyse = move |text: Box<[u8]>| {
            let analysis = proxy.analyses.analyse(&text);
            (text, analysis)
        };
        let analysed = tokio::task::spawn_blocking(move || texts.into_iter().map(analyse).collect());
        // Without it they are analysed here.
        self.foreseen = analysed.await.unwrap_or_default();
        Some(asked_at)
    }

    /// What a text says, of the messages that are served.
    pub(super) fn analysis_of(&self, text: &[u8]) -> Arc<Analysis> {
        let foreseen = self.foreseen.iter().find(|(known, _)| **known == *text);
        foreseen.map_or_else(|| self.proxy.analyses.analyse(text), |(_, analysis)| Arc::clone(analysis))
    }
}

fn text_of<'a>(frame: &Frame<'a>) -> Option<&'a [u8]> {
    match frame.tag {
        tag::QUERY => frontend::query(frame.body).ok(),
        tag::PARSE => Parse::read(frame.body).ok().map(|parse| parse.text),
        _ => None,
    }
}
