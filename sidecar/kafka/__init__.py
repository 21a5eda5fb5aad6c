"""Gates before Kafka topics: each record of an inbound topic is authenticated before it reaches the protected topic.

A gate (``gate``) is a loop in a thread, because the calls of librdkafka block. For each batch of records:

- ``records``: the credential is read from the record headers; the credential and every header that could claim an
  identity are removed.
- ``judge``: the authentication chain, the revocation list and the rules decide, on the event loop, with the same parts
  as for HTTP requests.
- ``gate``: accepted records go to the protected topic with the Actor in their headers, refused ones to the dead-letter
  topic without their value. Both, and the position in the inbound topic, are one Kafka transaction.

To keep:

- A transaction is committed with the group membership of the assignment that its records come from. A gate that lost
  its partitions is rejected by the broker, so no record is written twice.
- What cannot be decided now stops its partition. It is never a refusal.
- After a failed transaction, producer and consumer are replaced. The new consumer begins at the committed position.
- No credential, value or claim of a record is written to a log line, and no text of librdkafka or the broker.
"""
