import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * A producer of somebody else, told by lines on standard input what to do: {@code begin}, {@code commit}, {@code abort} a
 * transaction, {@code flush}, or {@code send TIMESTAMP KEY VALUE}, key and value in base64, {@code -} for none. All but
 * {@code send} are answered by a line once they are done.
 *
 * <p>Arguments: brokers, topic, and a transactional id if it is to write in transactions.
 */
public final class Upstream {
    public static void main(String[] arguments) throws Exception {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", arguments[0]);
        settings.put("max.request.size", 8 << 20);
        if (arguments.length > 2) {
            settings.put("transactional.id", arguments[2]);
        }
        AtomicReference<Exception> failure = new AtomicReference<>();
        try (KafkaProducer<byte[], byte[]> producer =
                new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer())) {
            if (arguments.length > 2) {
                producer.initTransactions();
            }
            System.out.println("ready");
            BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                String[] words = line.split(" ");
                switch (words[0]) {
                    case "send" -> {
                        Long timestamp = words[1].equals("-") ? null : Long.valueOf(words[1]);
                        producer.send(
                                new ProducerRecord<>(arguments[1], null, timestamp, bytes(words[2]), bytes(words[3])),
                                (metadata, error) -> failure.compareAndSet(null, error));
                    }
                    case "begin" -> producer.beginTransaction();
                    case "commit" -> producer.commitTransaction();
                    case "abort" -> {
                        producer.flush();
                        producer.abortTransaction();
                    }
                    case "flush" -> producer.flush();
                    default -> throw new IllegalArgumentException(line);
                }
                if (failure.get() != null) {
                    throw failure.get();
                }
                if (!words[0].equals("send")) {
                    System.out.println("done " + words[0]);
                }
            }
        }
    }

    private static byte[] bytes(String word) {
        return word.equals("-") ? null : Base64.getDecoder().decode(word);
    }
}
