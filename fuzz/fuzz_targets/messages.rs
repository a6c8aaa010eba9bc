//! Views of messages' bodies: what is read lies within the body, and what is written back is the same.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use pgsluice::wire::Frames;
use pgsluice::wire::backend::{TransactionStatus, error_field, parameter_status, put_parameter_status, sqlstate};
use pgsluice::wire::frontend::{self, Bind, Parse, Target, put_bind, put_parse, put_query, put_statement_target, tag};

fuzz_target!(|body: &[u8]| {
    let mut out = BytesMut::new();
    if let Ok(text) = frontend::query(body) {
        put_query(&mut out, text);
        is_again(&mut out, tag::QUERY, body);
    }
    if let Ok(parse) = Parse::read(body) {
        put_parse(&mut out, parse);
        is_again(&mut out, tag::PARSE, body);
    }
    if let Ok(bind) = Bind::read(body) {
        put_bind(&mut out, bind);
        is_again(&mut out, tag::BIND, body);
    }
    for (kind, name) in [(tag::DESCRIBE, "Describe"), (tag::CLOSE, "Close")] {
        match Target::read(body, name) {
            Ok(Target::Statement(statement)) => {
                put_statement_target(&mut out, kind, statement);
                is_again(&mut out, kind, body);
            }
            Ok(Target::Portal(portal)) => assert_eq!(body, [b"P", portal, b"\0"].concat()),
            Err(_) => {}
        }
    }
    if let Some((name, value)) = parameter_status(body) {
        put_parameter_status(&mut out, name, value);
        let written = out.split();
        assert_eq!(parameter_status(&written[5..]), Some((name, value)));
    }
    for code in 0..=u8::MAX {
        if let Some(field) = error_field(body, code) {
            assert!(field.len() < body.len() && !field.contains(&0));
        }
    }
    let _ = sqlstate(body);
    let _ = TransactionStatus::read(body);
});

fn is_again(out: &mut BytesMut, tag: u8, body: &[u8]) {
    let written = out.split();
    let frames: Vec<_> = Frames::new(&written).collect();
    assert_eq!(frames.len(), 1);
    let frame = frames[0].expect("it is a frame");
    assert_eq!((frame.tag, frame.body), (tag, body));
}
