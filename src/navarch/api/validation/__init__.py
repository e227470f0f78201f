"""What makes an object valid, by kind: the rules of upstream's `pkg/apis/*/validation`, with its
field paths, causes and messages. Every function returns its complaints; none raises."""
