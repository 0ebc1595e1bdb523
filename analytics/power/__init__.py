"""`salon power`: how many units, how long, how small an effect; from numbers, from a file, from the warehouse."""
