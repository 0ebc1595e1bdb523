"""Events in Apache Kafka: where it is, its topics, what is wrong with it, and the way from a topic to the warehouse."""
