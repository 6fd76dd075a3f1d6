//! Compressed bodies, decoded up to a limit: what is beyond it is never made, however small the body was that holds it.

use std::io::{self, Read};

use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

use super::media::Encoding;

/// The largest window of a zstd frame, as a power of two: 8 MiB, which RFC 8878 asks every reader to take and none to
/// exceed.
const ZSTD_WINDOW: u32 = 23;
/// What is decoded before more room is asked for.
const FIRST_PIECE: usize = 16 << 10;

#[derive(Debug, thiserror::Error)]
pub(super) enum DecodeError<E> {
    #[error("the body has more than that decoded")]
    TooLarge,
    #[error("the body is not what its Content-Encoding says ({0})")]
    Broken(#[from] io::Error),
    #[error("no room")]
    NoRoom(E),
}

/// `wire` decoded; `make_room` is asked before as many bytes in all are held.
///
/// Errors: it has more than `limit` bytes, is cut off or damaged, or there is no room for it.
pub(super) fn decode<E>(
    encoding: Encoding,
    wire: &[u8],
    limit: usize,
    make_room: impl FnMut(usize) -> Result<(), E>,
) -> Result<Vec<u8>, DecodeError<E>> {
    match encoding {
        Encoding::Gzip => read(MultiGzDecoder::new(wire), limit, make_room),
        // Said of zlib's format; some clients send the stream without it.
        Encoding::Deflate if has_zlib_header(wire) => {
            let mut decoder = ZlibDecoder::new(wire);
            let decoded = read(&mut decoder, limit, make_room)?;
            Ok(ended(decoded, decoder.get_ref())?)
        }
        Encoding::Deflate => {
            let mut decoder = DeflateDecoder::new(wire);
            let decoded = read(&mut decoder, limit, make_room)?;
            Ok(ended(decoded, decoder.get_ref())?)
        }
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(wire)?;
            decoder.window_log_max(ZSTD_WINDOW)?;
            read(decoder, limit, make_room)
        }
    }
}

fn has_zlib_header(wire: &[u8]) -> bool {
    wire.first_chunk::<2>().is_some_and(|head| head[0] & 0x0f == 8 && u16::from_be_bytes(*head) % 31 == 0)
}

fn read<E>(
    mut decoder: impl Read,
    limit: usize,
    mut make_room: impl FnMut(usize) -> Result<(), E>,
) -> Result<Vec<u8>, DecodeError<E>> {
    let mut decoded = Vec::new();
    loop {
        if decoded.len() == limit {
            let more = decoder.read(&mut [0])? > 0;
            return if more { Err(DecodeError::TooLarge) } else { Ok(decoded) };
        }
        let size = (decoded.len() * 2).clamp(FIRST_PIECE, limit.max(FIRST_PIECE)).min(limit);
        make_room(size).map_err(DecodeError::NoRoom)?;
        decoded.reserve_exact(size - decoded.len());
        let piece = size - decoded.len();
        let read = decoder.by_ref().take(piece as u64).read_to_end(&mut decoded)?;
        if read < piece {
            return Ok(decoded);
        }
    }
}

/// Beyond the end of a stream there must be nothing.
fn ended(decoded: Vec<u8>, rest: &[u8]) -> io::Result<Vec<u8>> {
    if rest.is_empty() {
        return Ok(decoded);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "something follows its end"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::read::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn all_read(mut encoder: impl Read) -> Vec<u8> {
        let mut bytes = Vec::new();
        encoder.read_to_end(&mut bytes).expect("from memory");
        bytes
    }

    /// `plain` in each of the forms that a client may send.
    fn forms(plain: &[u8]) -> Vec<(Encoding, Vec<u8>)> {
        let best = Compression::best();
        let gzip = all_read(GzEncoder::new(plain, best));
        let members = [all_read(GzEncoder::new(&b""[..], best)), gzip.clone()].concat();
        vec![
            (Encoding::Gzip, gzip),
            (Encoding::Gzip, members),
            (Encoding::Deflate, all_read(ZlibEncoder::new(plain, best))),
            (Encoding::Deflate, all_read(DeflateEncoder::new(plain, best))),
            (Encoding::Zstd, zstd::encode_all(plain, 3).expect("from memory")),
        ]
    }

    fn decoded(encoding: Encoding, wire: &[u8], limit: usize) -> Result<Vec<u8>, DecodeError<Infallible>> {
        decode(encoding, wire, limit, |_| Ok(()))
    }

    #[test]
    fn a_bomb_makes_no_more_than_the_limit() {
        const LIMIT: usize = 1 << 20;
        for (encoding, bomb) in forms(&vec![0; 200 << 20]) {
            assert!(bomb.len() < LIMIT, "{encoding:?}: {}", bomb.len());
            let mut most = 0;
            let result = decode(encoding, &bomb, LIMIT, |size| {
                most = size.max(most);
                Ok::<(), Infallible>(())
            });
            assert!(matches!(result, Err(DecodeError::TooLarge)), "{encoding:?}");
            assert_eq!(most, LIMIT, "{encoding:?}");
        }
    }

    #[test]
    fn a_body_of_just_the_limit_is_taken() {
        for (encoding, wire) in forms(&[7; 100_000]) {
            assert_eq!(decoded(encoding, &wire, 100_000).expect("taken").len(), 100_000);
            assert!(matches!(decoded(encoding, &wire, 99_999), Err(DecodeError::TooLarge)), "{encoding:?}");
        }
    }

    #[test]
    fn a_window_beyond_the_limit_is_refused() {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).expect("encoder");
        encoder.window_log(ZSTD_WINDOW + 1).expect("set");
        io::copy(&mut io::repeat(1).take(20 << 20), &mut encoder).expect("to memory");
        let wire = encoder.finish().expect("finished");
        assert!(matches!(decoded(Encoding::Zstd, &wire, 64 << 20), Err(DecodeError::Broken(_))));
    }

    #[test]
    fn without_room_nothing_is_decoded() {
        for (encoding, wire) in forms(b"[]") {
            assert!(matches!(
                decode(encoding, &wire, 100, |_| Err("full")),
                Err(DecodeError::NoRoom("full"))
            ));
        }
    }

    #[test]
    fn a_body_with_something_after_its_end_is_broken() {
        for (encoding, wire) in forms(b"[1,2,3]") {
            let longer = [&wire[..], b"x"].concat();
            assert!(matches!(decoded(encoding, &longer, 100), Err(DecodeError::Broken(_))), "{encoding:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_sent_comes_back_and_a_cut_is_seen(plain in prop::collection::vec(any::<u8>(), 1..50_000), cut in 0.0..1.0) {
            for (encoding, wire) in forms(&plain) {
                prop_assert_eq!(&decoded(encoding, &wire, 1 << 20).expect("decoded"), &plain);
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index")]
                let cut = (wire.len() as f64 * cut) as usize;
                // A stream of several members may end after any of them.
                if let Ok(shorter) = decoded(encoding, &wire[..cut], 1 << 20) {
                    prop_assert!(shorter.is_empty());
                }
            }
        }

        #[test]
        fn garbage_is_refused_or_small(wire in prop::collection::vec(any::<u8>(), 0..300)) {
            for encoding in [Encoding::Gzip, Encoding::Deflate, Encoding::Zstd] {
                if let Ok(plain) = decoded(encoding, &wire, 10_000) {
                    prop_assert!(plain.len() <= 10_000);
                }
            }
        }
    }
}
