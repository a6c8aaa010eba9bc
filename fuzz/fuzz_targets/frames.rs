//! Frames out of a stream, in whatever pieces it comes: the same frames, and the same end.
//!
//! Of the input, the first byte is a number of pieces, as many bytes are their sizes, and the rest is the stream.
#![no_main]

use bytes::{Buf, BytesMut};
use libfuzzer_sys::fuzz_target;
use pgsluice::wire::{FrameError, Frames, header};

type Found = (Vec<(u8, Vec<u8>)>, Option<FrameError>, Vec<u8>);

fn in_pieces<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Found {
    let (mut found, mut buffer) = (Vec::new(), BytesMut::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        let mut taken = 0;
        for frame in Frames::new(&buffer) {
            match frame {
                Ok(frame) => {
                    let known = header(&buffer[taken..]).expect("a valid header").expect("a whole header");
                    assert_eq!((known.tag, known.size), (frame.tag, frame.bytes.len()));
                    assert_eq!(frame.bytes.len(), 5 + frame.body.len());
                    assert_eq!(frame.bytes, &buffer[taken..taken + known.size]);
                    taken += frame.bytes.len();
                    found.push((frame.tag, frame.body.to_vec()));
                }
                Err(error) => {
                    assert_eq!(header(&buffer[taken..]), Err(error));
                    assert!(!(4..0x3fff_ffff).contains(&error.length));
                    return (found, Some(error), Vec::new());
                }
            }
        }
        buffer.advance(taken);
        // What is left is less than one message.
        if let Some(next) = header(&buffer).expect("an error would have been found") {
            assert!(buffer.len() < next.size);
        } else {
            assert!(buffer.len() < 5);
        }
    }
    (found, None, buffer.to_vec())
}

fuzz_target!(|input: &[u8]| {
    let Some((count, rest)) = input.split_first() else { return };
    let (sizes, stream) = rest.split_at(rest.len().min(usize::from(*count)));
    let whole = in_pieces(std::iter::once(stream));
    let mut left = stream;
    let pieces = sizes.iter().copied().cycle().take(2 * stream.len() + sizes.len()).map(|size| {
        let piece;
        (piece, left) = left.split_at(left.len().min(usize::from(size)));
        piece
    });
    let mut pieces: Vec<&[u8]> = pieces.collect();
    pieces.push(left);
    assert_eq!(in_pieces(pieces.into_iter()), whole);
    assert_eq!(in_pieces(stream.chunks(1)), whole);
});
