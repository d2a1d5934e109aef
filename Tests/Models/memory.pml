/* x86's store order (TSO) for one shared word of each writer: a store waits in the writer's buffer until the
 * "Memory" process, or a fence, brings it out. A load of another process may run before that. */
#define BUFFERED(word) bit word##Waits; byte word##Value
#define STORE(word, value) atomic { !word##Waits -> word##Value = value; word##Waits = 1 }
#define FENCE(word) (!word##Waits)
#define DRAIN(word) :: atomic { word##Waits -> word = word##Value; word##Waits = 0 }
/* Ring indexes run freely, modulo 8 here. */
#define PLUS(a, n) (((a) + (n)) % 8)
#define MINUS(a, b) (((a) + 8 - (b)) % 8)
