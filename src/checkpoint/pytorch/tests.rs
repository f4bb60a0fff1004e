//! Streams and archives made by hand: what is refused, and that refusing is quick.
