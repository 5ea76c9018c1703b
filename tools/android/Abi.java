import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;
import org.jetbrains.kotlin.abi.tools.AbiFilters;
import org.jetbrains.kotlin.abi.tools.AbiTools;

/**
 * Compares the public API of compiled classes with the dump in the repository, or writes the dump: Abi CLASSES DUMP [--update].
 * It is the dump of the Kotlin Gradle plugin's ABI validation. Run as a source file with Kotlin's abi-tools on the class path.
 */
class Abi {
  public static void main(String[] arguments) throws IOException {
    Path dump = Path.of(arguments[1]);
    String current = dumpOf(Path.of(arguments[0]));
    if (arguments.length > 2) {
      Files.writeString(dump, current);
      return;
    }
    Path written = Files.createTempFile("abi", ".api");
    Files.writeString(written, current);
    String difference = TOOLS.filesDiff(dump.toFile(), written.toFile());
    Files.delete(written);
    if (difference != null) {
      System.out.println(difference);
      System.exit(1);
    }
  }

  private static final AbiTools TOOLS = AbiTools.Companion.getInstance(Abi.class.getClassLoader());

  private static String dumpOf(Path folder) throws IOException {
    try (Stream<Path> files = Files.walk(folder)) {
      List<File> classes =
          files.filter(file -> file.toString().endsWith(".class")).sorted().map(Path::toFile).toList();
      StringBuilder dump = new StringBuilder();
      TOOLS.printJvmDump(dump, classes, AbiFilters.Companion.getEMPTY());
      return dump.toString();
    }
  }
}
